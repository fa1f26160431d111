#!/usr/bin/env bash
# Installs the operating system's packages that the demo and the tests need, on Debian (and what is made from it)
# and on Fedora (likewise). Does nothing, and needs neither root nor the network, when all of them are there.
#
#   install.sh           install what is missing
#   install.sh --check   only say what is missing; exit status 1 when something is
set -euo pipefail

debian=(
	podman crun conmon netavark aardvark-dns uidmap fuse-overlayfs slirp4netns catatonit
	systemd systemd-container dbus dbus-user-session libpam-systemd
	nftables firewalld iproute2 iptables protobuf-compiler rpm strace e2fsprogs xfsprogs util-linux mount passwd procps
	curl openssl rsyslog rsyslog-openssl
	ostree shellcheck
	prometheus prometheus-node-exporter
	ansible-core
	rpmlint cpio make policycoreutils selinux-utils selinux-policy-default # a policy to look labels up in: it is not switched on
	git gcc libc6-dev # the race detector needs a C compiler
)
fedora=(
	podman crun conmon netavark aardvark-dns shadow-utils fuse-overlayfs slirp4netns passt catatonit
	systemd systemd-container systemd-pam dbus-daemon
	nftables firewalld iproute iptables-nft protobuf-compiler rpm-build strace e2fsprogs xfsprogs util-linux procps-ng
	curl openssl rsyslog rsyslog-openssl
	ostree ShellCheck
	golang-github-prometheus golang-github-prometheus-node-exporter
	ansible-core
	rpmlint cpio make systemd-rpm-macros policycoreutils libselinux-utils selinux-policy-targeted container-selinux
	git gcc glibc-devel
)

family() {
	# shellcheck disable=SC1091
	(. /etc/os-release && case " ${ID:-} ${ID_LIKE:-} " in
	*" debian "*) echo debian ;;
	*" fedora "*) echo fedora ;;
	*) echo "setup: ${PRETTY_NAME:-this system} is neither Debian nor Fedora: install by hand what $0 lists" >&2 && exit 1 ;;
	esac)
}

missing_debian() {
	local package
	declare -A have
	while read -r package; do have[$package]=1; done \
		< <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${debian[@]}" 2>/dev/null | sed -n 's/^installed //p')
	for package in "${debian[@]}"; do
		[ -n "${have[$package]:-}" ] || echo "$package"
	done
}

missing_fedora() {
	local package
	# --whatprovides, because names move: a package is there when something provides it.
	for package in "${fedora[@]}"; do
		rpm -q --quiet --whatprovides "$package" || echo "$package"
	done
}

install_debian() {
	export DEBIAN_FRONTEND=noninteractive
	apt-get -q update
	apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 install "$@"
}

install_fedora() {
	dnf -q -y --setopt=install_weak_deps=False install "$@"
}

family=$(family)
mapfile -t missing < <("missing_$family")
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "${1:-}" = --check ]; then
	echo "setup: missing: ${missing[*]}" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "setup: these packages are missing and root is needed to install them: ${missing[*]}" >&2
	exit 1
fi
echo "setup: install ${missing[*]}"
# firewalld is for the devices: it must not begin to guard this machine, now or at the next boot.
guard=
case " ${missing[*]} " in
*" firewalld "*) [ ! -d /run/systemd/system ] || guard=firewalld.service ;;
esac
began=$SECONDS
[ -z "$guard" ] || systemctl --quiet --runtime mask "$guard"
"install_$family" "${missing[@]}"
if [ -n "$guard" ]; then
	systemctl --quiet --runtime unmask "$guard"
	systemctl --quiet disable "$guard"
fi
mapfile -t missing < <("missing_$family")
if [ ${#missing[@]} -gt 0 ]; then
	echo "setup: still missing after the installation: ${missing[*]}" >&2
	exit 1
fi
echo "setup: done in $((SECONDS - began)) s"
