# Sourced by scripts/package: container images, of Debian's packages alone. The root file system has the program, the
# libraries that it is linked with and a shell for hooks: no compiler, no package manager, nothing that is set-uid.

# debian_root FOLDER PACKAGES...: the packages and what they need, unpacked without their scripts.
debian_root() {
  local folder=$1 packages
  shift
  packages=$(IFS=,; echo "$*")
  mmdebstrap --quiet --mode=root --variant=extract --format=tar --include="$packages" bookworm "$folder.all.tar" \
    >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "mmdebstrap failed"; }
  mkdir "$folder"
  tar -C "$folder" -xf "$folder.all.tar" --exclude='./dev/*'
  rm "$folder.all.tar"
}
# pack FOLDER TAR: tidied, and the same bytes for the same files.
pack() {
  sh "$root/deploy/container/tidy_root.sh" "$1"
  tar -C "$1" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner -cf "$2" .
}

# Names of the packages that a .deb depends on, without versions and alternatives.
depends_of() {
  dpkg-deb -f "$1" Depends | tr ',' '\n' | sed -E 's/\(.*//; s/\|.*//; s/[[:space:]]//g' | grep -v -x adduser
}

buildah_here() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }

# image NAME FROM TAR FILE CONFIG...: one layer more, as a docker archive; prints its digest.
image() {
  local name=$1 from=$2 tar=$3 file=$4 made
  shift 4
  made=$(buildah_here from --pull-never --format docker "$from")
  buildah_here add --quiet "$made" "$tar" / >/dev/null
  buildah_here config --created-by 'scripts/package image' --label "org.opencontainers.image.version=$version" \
    "$@" "$made"
  buildah_here commit --quiet --format docker --timestamp "$SOURCE_DATE_EPOCH" --rm "$made" "localhost/$name:$tag" \
    >/dev/null
  rm -f "$file"
  buildah_here push --quiet "localhost/$name:$tag" "docker-archive:$file:localhost/$name:$tag"
  printf '%s\t%s\t%s\n' "$file" \
    "$(python3 -B "$root/deploy/container/plain_image.py" "$file" "$SOURCE_DATE_EPOCH")" \
    "$(du -k "$file" | cut -f1) KiB"
}

build_images() { # build_images FOLDER
  local tool tag=${version//[+~]/-}
  ((EUID == 0)) || fail "images are built as root"
  for tool in mmdebstrap buildah; do command -v "$tool" >/dev/null || fail "needs the package $tool"; done
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$1"
  build_debs "$work/debs"
  local deb model
  deb=$(echo "$work"/debs/omni_*.deb)
  model=$(echo "$work"/debs/omni-model-mini_*.deb)

  say "a root file system of Debian's packages"
  # shellcheck disable=SC2046
  debian_root "$work/root" base-files dash coreutils $(depends_of "$deb")
  dpkg-deb -x "$deb" "$work/root"
  rm -rf "$work/root/etc/omni" "$work/root/usr/lib/systemd" "$work/root/usr/share/"{man,bash-completion,zsh}
  pack "$work/root" "$work/omni.tar"
  mkdir "$work/model"
  dpkg-deb -x "$model" "$work/model"
  tar -C "$work/model" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner -cf "$work/model.tar" ./usr

  say "images"
  # Its own user, whom nobody else is; the state is a volume.
  image omni scratch "$work/omni.tar" "$1/omni-image.tar" --user 10001:10001 --entrypoint '["/usr/bin/omni"]' \
    --cmd serve --env XDG_STATE_HOME=/var/lib --env HOME=/var/lib/omni --env OMNI_LOG=json --env OMNI_LOG_LEVEL=info \
    --env PATH=/usr/bin:/bin --volume /var/lib/omni --workingdir /var/lib/omni --stop-signal SIGTERM \
    --healthcheck 'CMD /usr/bin/omni cluster health --cluster 127.0.0.1:8081' --healthcheck-interval 10s \
    --healthcheck-timeout 5s --healthcheck-start-period 60s
  image omni-mini "localhost/omni:$tag" "$work/model.tar" "$1/omni-mini-image.tar"

  debian_root "$work/etcd" base-files dash etcd-server
  pack "$work/etcd" "$work/etcd.tar"
  image omni-etcd scratch "$work/etcd.tar" "$1/omni-etcd-image.tar" --user 10001:10001 \
    --entrypoint '["/usr/bin/etcd"]' --env PATH=/usr/bin:/bin --volume /var/lib/etcd --workingdir /var/lib/etcd
}
