// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"structs"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Names of the pinned maps.
const (
	FlowStats   = "flow_stats"   // hash, key: u64 cookie
	ObjectStats = "object_stats" // hash, key: ObjectKey
	DenseStats  = "dense_stats"  // array by id, BPF_F_MMAPABLE
)

// Sizes of the maps in entries: the sizes are part of their layout.
const (
	// MaxFlows bounds flow_stats: a flowtable of a busy host.
	MaxFlows = 1 << 18
	// MaxObjects bounds object_stats: two million rows that have counted.
	MaxObjects = 1 << 21
	// MaxDense bounds dense_stats: eight counters for 8,192 ports (3 MiB).
	MaxDense = 1 << 16
)

// Value is what every map holds per entry, in host byte order. Counts are
// absolute.
type Value struct {
	_          structs.HostLayout
	Packets    uint64
	Bytes      uint64
	LastUsedNS uint64
	Generation uint32
	_          uint32
}

// valueBytes is sizeof(Value).
const valueBytes = 32

// ObjectKey names a mirrored row: its kind and the digest of its key.
type ObjectKey struct {
	_      structs.HostLayout
	Kind   uint8
	_      [7]uint8
	Digest uint64
}

// Stats is the three maps.
type Stats struct {
	Flows   *ebpf.Map
	Objects *ebpf.Map
	dense   *ebpf.Map
	memory  *ebpf.Memory
}

// OpenStats opens the maps pinned in a folder of a bpffs, making those that do
// not exist. A map of another layout is an error that names it: it is not
// replaced, because somebody may be reading it.
func OpenStats(dir string) (_ *Stats, err error) {
	var fsinfo unix.Statfs_t
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("folder for BPF maps: %w", err)
	}
	if err := unix.Statfs(dir, &fsinfo); err != nil {
		return nil, fmt.Errorf("folder for BPF maps: %s: %w", dir, err)
	}
	if fsinfo.Type != unix.BPF_FS_MAGIC {
		return nil, fmt.Errorf("folder for BPF maps: %s is not on a bpffs (mount -t bpf bpf %s)", dir, dir)
	}
	s := &Stats{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for _, m := range []struct {
		to   **ebpf.Map
		spec ebpf.MapSpec
	}{
		// Entries are made when something is counted, not before.
		{&s.Flows, ebpf.MapSpec{Name: FlowStats, Type: ebpf.Hash, KeySize: 8, ValueSize: valueBytes, MaxEntries: MaxFlows, Flags: unix.BPF_F_NO_PREALLOC}},
		{&s.Objects, ebpf.MapSpec{Name: ObjectStats, Type: ebpf.Hash, KeySize: 16, ValueSize: valueBytes, MaxEntries: MaxObjects, Flags: unix.BPF_F_NO_PREALLOC}},
		{&s.dense, ebpf.MapSpec{Name: DenseStats, Type: ebpf.Array, KeySize: 4, ValueSize: valueBytes, MaxEntries: MaxDense, Flags: unix.BPF_F_MMAPABLE}},
	} {
		if *m.to, err = openPinned(filepath.Join(dir, m.spec.Name), m.spec); err != nil {
			return nil, err
		}
	}
	if s.memory, err = s.dense.Memory(); err != nil {
		return nil, fmt.Errorf("map %s: %w", DenseStats, err)
	}
	return s, nil
}

// openPinned opens the map pinned at path or makes it.
func openPinned(path string, spec ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		if m, err = ebpf.NewMap(&spec); err != nil {
			return nil, fmt.Errorf("make BPF map %s: %w", spec.Name, err)
		}
		if err = m.Pin(path); err != nil {
			m.Close()
			return nil, fmt.Errorf("pin BPF map %s: %w", path, err)
		}
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open BPF map %s: %w", path, err)
	}
	if err := spec.Compatible(m); err != nil {
		m.Close()
		return nil, fmt.Errorf("BPF map %s has another layout (remove it to have it made again): %w", path, err)
	}
	return m, nil
}

// Dense returns the memory of dense_stats: Value i begins at byte 32*i.
func (s *Stats) Dense() *ebpf.Memory { return s.memory }

// Close closes the maps. What is pinned stays.
func (s *Stats) Close() error {
	var errs []error
	for _, m := range []*ebpf.Map{s.Flows, s.Objects, s.dense} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}
