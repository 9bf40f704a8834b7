#!/usr/bin/env bash
# manifests.sh ROOT: what the overlays of deploy/kubernetes build is of the types of the current Kubernetes API, every
# field of it, by TypeScript; and a field that there is not would be found.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$1
skip() { echo "SKIPPED: $1"; exit 77; }
command -v kubectl >/dev/null || skip "needs kubectl (apt-get install kubernetes-client)"
python3 -c 'import yaml' 2>/dev/null || skip "needs python3-yaml"
python3 -B - "$root/deploy/kubernetes/overlays" <<'P'
import json, pathlib, subprocess, sys, yaml
names, lines = {}, []
for overlay in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    built = subprocess.run(["kubectl", "kustomize", overlay], check=True, capture_output=True, text=True).stdout
    for number, o in enumerate(yaml.safe_load_all(built)):
        group, _, version = o["apiVersion"].rpartition("/")
        module = f"kubernetes-types/{group.removesuffix('.k8s.io') or 'core'}/{version}"
        alias = f"{o['kind']}_{len(module)}"
        names[alias] = (o["kind"], module)
        lines.append(f"export const o{overlay.name.replace('-', '_')}_{number}: {alias} = {json.dumps(o)};")
imports = [f'import type {{{kind} as {alias}}} from "{module}";' for alias, (kind, module) in sorted(names.items())]
pathlib.Path("manifests.ts").write_text("\n".join(imports + lines) + "\n")
pathlib.Path("wrong.ts").write_text("\n".join(imports + lines).replace('"readinessProbe"', '"readyProbe"') + "\n")
P
check() {
  node node_modules/typescript/bin/tsc --noEmit --strict --skipLibCheck --module node16 --moduleResolution node16 "$1"
}
check manifests.ts
said=$(check wrong.ts) && { echo "a probe that there is not was not found"; exit 1; }
grep -q readyProbe <<<"$said"
echo "$(grep -c '^export' manifests.ts) objects are of the current API's types"
