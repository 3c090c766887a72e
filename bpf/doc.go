// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Package bpf is everything that Antiphon has in the kernel's BPF: the pinned
// counter maps and, as far as they exist, the programs. Handles are thin; no BPF
// object travels further than this package's callers. It imports cilium/ebpf and
// nothing of ours.
package bpf
