#!/bin/sh
# Makes stand-ins of base images for machines that reach no registry, from Debian's packages and apt's own mirror.
#
#   tests/deploy/stand_ins.sh python:3.11-slim-bookworm postgres:17-alpine prom/prometheus:v3.5.0
#
# A stand-in has the name of the image that it stands for and the label fwdllm.stand-in. PODMAN="podman --root …" puts it
# into another store. It takes root, debootstrap and podman. PostgreSQL's understands the variables of the official image.
set -eu
here=$(dirname "$0")
suite=bookworm # its Python is that of the Dockerfiles
packages_of() {
    case $1 in
        python:3.11-*) echo python3 python3-pip python3-venv ca-certificates ;;
        postgres:*) echo postgresql ;;
        prom/prometheus:*) echo prometheus ;;
        *) echo "stand_ins.sh: $1 has no stand-in" >&2 && exit 2 ;;
    esac
}
for image; do packages_of "$image" > /dev/null; done

# shellcheck disable=SC2016 # apt's variables
mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(COMPONENT)' 'Created-By: Packages' |
    awk '$2 == "Debian" && $3 == "main" { print $1; exit }')
: "${mirror:=http://deb.debian.org/debian}"
place=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
mkdir "$place/context"
trap 'rm -rf "$place"' EXIT
debootstrap --variant=minbase "$suite" "$place/debian" "$mirror" > "$place/log" || { cat "$place/log" >&2; exit 1; }
# No package starts its service, and nothing is kept that an image does not need.
printf '#!/bin/sh\nexit 101\n' > "$place/debian/usr/sbin/policy-rc.d"
chmod 755 "$place/debian/usr/sbin/policy-rc.d"
printf 'path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\n' > "$place/debian/etc/dpkg/dpkg.cfg.d/slim"
echo force-unsafe-io > "$place/debian/etc/dpkg/dpkg.cfg.d/fast"

for image; do
    root=$place/root
    cp -a "$place/debian" "$root"
    # shellcheck disable=SC2046 # words
    chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends \
        $(packages_of "$image") > "$place/log" 2>&1 || { cat "$place/log" >&2; exit 1; }
    chroot "$root" apt-get clean
    rm -rf "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/*
    case $image in
        python:*)
            ln -s python3 "$root/usr/bin/python"
            says='CMD ["python"]'
            ;;
        postgres:*)
            rm -rf "$root"/var/lib/postgresql/*/main
            install --mode=755 "$here/postgres_entrypoint.sh" "$root/usr/local/bin/docker-entrypoint.sh"
            says='VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]'
            ;;
        prom/*)
            install --directory --owner=nobody --group=nogroup "$root/prometheus"
            says='USER nobody
WORKDIR /prometheus
VOLUME /prometheus
ENTRYPOINT ["prometheus"]'
            ;;
    esac
    tar -C "$root" --numeric-owner -cf "$place/context/root.tar" .
    rm -rf "$root"
    printf 'FROM scratch\nADD root.tar /\nLABEL fwdllm.stand-in="%s"\n%s\n' "$(packages_of "$image")" "$says" \
        > "$place/context/Dockerfile"
    case $image in */*) name=docker.io/$image ;; *) name=docker.io/library/$image ;; esac
    ${PODMAN:-podman} build --quiet --tag "$name" "$place/context" > /dev/null
    echo "$name is a stand-in: $suite's $(packages_of "$image")"
done
