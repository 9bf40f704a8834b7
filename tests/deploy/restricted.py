"""The restricted profile of Kubernetes' Pod Security Standards, rule by rule: what a namespace that enforces it would
not admit. Of a pod's spec, as it is written or as an API server gives it back."""

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
           "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range"}


def refused(pod):
    """Sentences, one for each rule that is broken."""
    found = []
    own = pod.get("securityContext") or {}
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        found.append("it shares the host's namespaces")
    for volume in pod.get("volumes") or []:
        if set(volume) - {"name"} - VOLUMES:
            found.append(f"volume {volume['name']} is of a kind that is not allowed")
    if {s["name"] for s in own.get("sysctls") or []} - SYSCTLS:
        found.append("it sets sysctls")
    kinds = ("initContainers", "containers", "ephemeralContainers")
    for container in [c for kind in kinds for c in pod.get(kind) or []]:
        c = container.get("securityContext") or {}
        name = container["name"]

        def effective(key):
            return c.get(key, own.get(key))
        if c.get("privileged"):
            found.append(f"{name} is privileged")
        if c.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name} may gain privileges")
        capabilities = c.get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or []) or set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
            found.append(f"{name} keeps or adds capabilities")
        if c.get("procMount", "Default") != "Default":
            found.append(f"{name} sees another /proc")
        if effective("runAsNonRoot") is not True or effective("runAsUser") == 0:
            found.append(f"{name} may run as root")
        if (effective("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append(f"{name}: its system calls are not confined")
        options = effective("seLinuxOptions") or {}
        if options.get("user") or options.get("role") or \
                options.get("type", "") not in ("", "container_t", "container_init_t", "container_kvm_t"):
            found.append(f"{name} chooses how SELinux sees it")
        if any(port.get("hostPort") for port in container.get("ports") or []):
            found.append(f"{name} has a port of the host")
    return found
