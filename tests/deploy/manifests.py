"""What must be true of the manifests in deploy/kubernetes, whatever cluster they are given to."""
import re

SECRETS = {"omni-certificates": {"ca.crt", "tls.crt", "tls.key"}, "omni-keys": {"keys.json"},
           "omni-scrape-key": {"key"}}


def problems(objects, variables):
    """Sentences, one for each fault. `variables`: {verb: names of its environment}."""
    found = []
    named = {}
    for o in objects:
        key = (o["kind"], o["metadata"]["name"])
        if key in named:
            found.append(f"{key} is there twice")
        named[key] = o
        if o["kind"] != "Namespace" and o["metadata"].get("namespace") != "omni":
            found.append(f"{key} is not in the namespace")
    pods = {}
    for (kind, name), o in named.items():
        if kind == "StatefulSet":
            pods[name] = o["spec"]["template"]
            found += [f"{name}: {problem}" for problem in of_set(o, named, variables)]
    for (kind, name), o in named.items():
        spec = o.get("spec", {})
        if kind in ("PodDisruptionBudget", "NetworkPolicy"):
            selector = spec["selector" if kind == "PodDisruptionBudget" else "podSelector"]["matchLabels"]
            if not any(matches(selector, pod) for pod in pods.values()):
                found.append(f"{kind} {name} selects no pod")
        if kind == "PodDisruptionBudget" and spec.get("maxUnavailable") != 1:
            found.append(f"{name}: more than one pod may be away")
        if kind == "Service":
            for port in spec["ports"]:
                known = [p["name"] for pod in pods.values() if matches(spec["selector"], pod)
                         for c in pod["spec"]["containers"] for p in c.get("ports", [])]
                if port["targetPort"] not in known:
                    found.append(f"Service {name}: no pod has a port {port['targetPort']}")
    for name, pod in pods.items():
        for wanted in ("PodDisruptionBudget", "NetworkPolicy"):
            selectors = [o["spec"].get("podSelector", o["spec"].get("selector"))["matchLabels"]
                         for (kind, _), o in named.items() if kind == wanted]
            if not any(matches(s, pod) for s in selectors):
                found.append(f"{name} has no {wanted}")
    return found


def matches(selector, pod):
    labels = pod["metadata"]["labels"]
    return all(labels.get(key) == value for key, value in selector.items())


def of_set(o, named, variables):
    found = []
    spec, pod = o["spec"], o["spec"]["template"]["spec"]
    if not matches(spec["selector"]["matchLabels"], spec["template"]):
        found.append("the selector does not select its own pods")
    service = named.get(("Service", spec["serviceName"]))
    if service is None or service["spec"].get("clusterIP") != "None" or \
            not matches(service["spec"]["selector"], spec["template"]):
        found.append(f"{spec['serviceName']} is no headless service of its pods")
    account = named.get(("ServiceAccount", pod.get("serviceAccountName")))
    if account is None or account.get("automountServiceAccountToken") is not False or \
            pod.get("automountServiceAccountToken") is not False:
        found.append("a token of Kubernetes is mounted")
    security = pod.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser") or not security.get("fsGroup"):
        found.append("it may run as root")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("system calls are not confined")
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        found.append("it shares the host's namespaces")
    volumes = {v["name"]: v for v in pod.get("volumes", [])}
    volumes.update({c["metadata"]["name"]: c for c in spec.get("volumeClaimTemplates", [])})
    for name, volume in volumes.items():
        kind = set(volume) - {"name", "metadata", "spec", "apiVersion", "kind", "status"}
        if kind - {"emptyDir", "secret", "configMap"}:
            found.append(f"volume {name} is of a kind that the restricted profile refuses")
        if "secret" in volume:
            secret = volume["secret"]
            items = {i["key"] for i in secret.get("items", [])}
            if items - SECRETS.get(secret["secretName"], set()) or secret["secretName"] not in SECRETS:
                found.append(f"volume {name} is of a secret that nobody is told to make")
    for container in pod.get("initContainers", []) + pod["containers"]:
        found += [f"{container['name']}: {p}" for p in of_container(container, volumes, named, variables)]
    for container in pod["containers"]:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe not in container:
                found.append(f"{container['name']}: no {probe}")
    return found


def of_container(c, volumes, named, variables):
    found = []
    security = c.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("capabilities") != {"drop": ["ALL"]}:
        found.append("it may gain privileges")
    if security.get("readOnlyRootFilesystem") is not True:
        found.append("its root file system can be written")
    resources = c.get("resources", {})
    if "memory" not in resources.get("limits", {}) or not {"cpu", "memory"} <= set(resources.get("requests", {})):
        found.append("its memory has no limit, or nothing is kept for it")
    for mount in c.get("volumeMounts", []):
        if mount["name"] not in volumes:
            found.append(f"there is no volume {mount['name']}")
    ports = {p["name"] for p in c.get("ports", [])}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        for how in ("httpGet", "tcpSocket"):
            port = c.get(probe, {}).get(how, {}).get("port")
            if port is not None and port not in ports:
                found.append(f"{probe} asks at {port}, which is no port")
    # A variable is made of those before it, an argument of all.
    known = set()
    for source in c.get("envFrom", []):
        settings = named.get(("ConfigMap", source["configMapRef"]["name"]))
        if settings is None:
            found.append(f"there is no ConfigMap {source['configMapRef']['name']}")
        else:
            known |= set(settings["data"])
    for variable in c.get("env", []):
        for used in re.findall(r"\$\((\w+)\)", variable.get("value", "")):
            if used not in known:
                found.append(f"{variable['name']} is made of {used}, which is not known before it")
        known.add(variable["name"])
    for used in re.findall(r"\$\((\w+)\)", " ".join(c.get("args", []))):
        if used not in known:
            found.append(f"an argument is made of {used}, which is not known")
    values = {}
    for source in c.get("envFrom", []):
        values.update(named.get(("ConfigMap", source["configMapRef"]["name"]), {}).get("data", {}))
    values.update({v["name"]: v.get("value") for v in c.get("env", [])})
    if values.get("OMNI_DURABLE") == "cluster" and not values.get("OMNI_ETCD"):
        found.append("OMNI_DURABLE=cluster wants OMNI_ETCD, which it has not")
    verb = (c.get("args") or [""])[0]
    if verb in variables:
        for name in sorted(known):
            if name.startswith("OMNI_") and name not in variables[verb]:
                found.append(f"{name} is no variable of omni {verb}")
    return found
