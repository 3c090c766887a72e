// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// TCX counts the programs at a link's TCX ingress and egress. The calling thread
// must be in the link's namespace. A kernel without TCX has none, and so has a
// link that is gone.
func TCX(ifindex uint32) (ingress, egress int, err error) {
	count := func(at ebpf.AttachType) (int, error) {
		r, err := link.QueryPrograms(link.QueryOptions{Target: int(ifindex), Attach: at})
		switch {
		case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENODEV):
			return 0, nil
		case err != nil:
			return 0, err
		}
		return len(r.Programs), nil
	}
	if ingress, err = count(ebpf.AttachTCXIngress); err != nil {
		return 0, 0, fmt.Errorf("query TCX ingress: %w", err)
	}
	if egress, err = count(ebpf.AttachTCXEgress); err != nil {
		return 0, 0, fmt.Errorf("query TCX egress: %w", err)
	}
	return ingress, egress, nil
}

// NetfilterLinks counts BPF programs on netfilter hooks, in all namespaces: the
// kernel does not say which one a link acts in.
func NetfilterLinks() (n int, err error) {
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil {
			return n, fmt.Errorf("BPF link %d: %w", it.ID, err)
		}
		if info.Type == link.NetfilterType {
			n++
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return n, fmt.Errorf("list BPF links: %w", err)
	}
	return n, nil
}
