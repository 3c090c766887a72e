#!/bin/sh
# Generates everything again and compares. Leaves the tree as it was.
set -eu

list() { git ls-files -- '*.pb.go' '*_bpfel.go' '*_bpfeb.go' '*_bpfel.o' '*_bpfeb.o' '*_string.go'; }

if ! command -v protoc >/dev/null 2>&1 || ! command -v protoc-gen-go >/dev/null 2>&1 || ! command -v clang >/dev/null 2>&1; then
	echo "generate-check: left out: protoc, protoc-gen-go and clang are needed" >&2
	exit 0
fi
saved=$(mktemp -d)
trap 'rm -rf "$saved"' EXIT
list | tar -cf "$saved/before.tar" -T -
go generate ./...
status=0
tar -df "$saved/before.tar" >"$saved/differences" 2>&1 || true
if grep -q 'Contents differ\|Size differs' "$saved/differences"; then
	echo "generate-check: these files are not what their sources say; run 'make generate':" >&2
	cat "$saved/differences" >&2
	status=1
fi
tar -xf "$saved/before.tar"
exit $status
