#!/bin/sh
# Installs what the tests and the demonstration call: only what is missing, only
# as root, quietly. Without root it says what will be left out.
set -u

missing=""
lost=""
need() { # need COMMAND PACKAGE WHAT-IT-IS-FOR
	command -v "$1" >/dev/null 2>&1 && return
	for dir in /sbin /usr/sbin; do
		[ -x "$dir/$1" ] && return
	done
	missing="$missing $2"
	lost="$lost
  $1 ($2): $3"
}

need ip iproute2 "every test against the live kernel"
need nft nftables "presence traps of nftables"
need iptables iptables "presence traps of iptables"
need bpftool bpftool "the independent reader of the BPF maps"
need ping iputils-ping "end-to-end tests"
need ethtool ethtool "offload settings of attached netdevs"

[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "setup: installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	# One package at a time: one that this release lacks must not keep out the rest.
	apt-get update -qq >/dev/null 2>&1
	failed=""
	for package in $missing; do
		apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 || failed="$failed $package"
	done
	[ -z "$failed" ] && exit 0
	echo "setup: could not install$failed; what needs them is skipped and counted" >&2
	exit 0
fi
echo "setup: not root, so these stay missing; what needs them is skipped and counted:$lost" >&2
