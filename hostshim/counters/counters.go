// Package counters writes what the agent counted into the pinned BPF maps, where
// programs and people read it. It holds no state per row: values are absolute,
// and a later generation of a row replaces an earlier one.
package counters

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"antiphon/bpf"
	"antiphon/netstate"
	"antiphon/transport"
)

// batch is how many rows one bpf(2) call updates.
const batch = 1024

// Writer writes into the maps of one folder. It is for one goroutine.
type Writer struct {
	stats  *bpf.Stats
	keys   []bpf.ObjectKey
	values []bpf.Value
	gone   []bpf.ObjectKey
}

// Open opens or makes the maps in a folder of a bpffs.
func Open(dir string) (*Writer, error) {
	s, err := bpf.OpenStats(dir)
	if err != nil {
		return nil, err
	}
	return &Writer{stats: s}, nil
}

// Close closes the maps; they stay pinned.
func (w *Writer) Close() error { return w.stats.Close() }

// Write writes counters. Those that name no kind of ours or no slot of the dense
// map are left out and reported; the others are written all the same.
func (w *Writer) Write(c *transport.Counters) error {
	w.keys, w.values, w.gone = w.keys[:0], w.values[:0], w.gone[:0]
	var errs []error
	for _, n := range c.GetCounters() {
		if err := w.one(n); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, w.flush())...)
}

func (w *Writer) one(n *transport.Counter) error {
	v := bpf.Value{Packets: n.GetPackets(), Bytes: n.GetBytes(), LastUsedNS: n.GetLastUsedNs(), Generation: n.GetGeneration()}
	if id := n.GetDenseId(); id != 0 {
		if id >= bpf.MaxDense {
			return fmt.Errorf("counter: dense id %d, the map has %d", id, bpf.MaxDense)
		}
		if err := w.dense(id, v); err != nil {
			return err
		}
	}
	if n.GetDigest() == 0 {
		return nil
	}
	if kind := n.GetKind(); kind < uint32(netstate.KindLink) || kind > uint32(netstate.KindNexthop) {
		return fmt.Errorf("counter of kind %d: not a mirrored kind", kind)
	}
	key := bpf.ObjectKey{Kind: uint8(n.GetKind()), Digest: n.GetDigest()}
	if n.GetGone() {
		w.gone = append(w.gone, key)
		return nil
	}
	w.keys, w.values = append(w.keys, key), append(w.values, v)
	return nil
}

// dense writes a slot of the mapped array. Readers see each word whole; an older
// generation is dropped.
func (w *Writer) dense(id uint32, v bpf.Value) error {
	const size = 32
	m, at := w.stats.Dense(), int64(id)*size
	var b [size]byte
	if _, err := m.ReadAt(b[:], at); err != nil {
		return fmt.Errorf("dense counter %d: %w", id, err)
	}
	if old := binary.NativeEndian.Uint32(b[24:]); older(v.Generation, old) {
		return nil
	}
	binary.NativeEndian.PutUint64(b[0:], v.Packets)
	binary.NativeEndian.PutUint64(b[8:], v.Bytes)
	binary.NativeEndian.PutUint64(b[16:], v.LastUsedNS)
	binary.NativeEndian.PutUint32(b[24:], v.Generation)
	if _, err := m.WriteAt(b[:], at); err != nil {
		return fmt.Errorf("dense counter %d: %w", id, err)
	}
	return nil
}

// older reports whether generation a came before b; generations wrap.
func older(a, b uint32) bool { return int32(a-b) < 0 }

// flush sends what was collected to object_stats. Deletions come first: a row
// that is gone and there again in one message is there.
func (w *Writer) flush() error {
	var errs []error
	for _, key := range w.gone {
		if err := w.stats.Objects.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete object counter: %w", err))
		}
	}
	for at := 0; at < len(w.keys); at += batch {
		end := min(at+batch, len(w.keys))
		if _, err := w.stats.Objects.BatchUpdate(w.keys[at:end], w.values[at:end], nil); err != nil {
			errs = append(errs, fmt.Errorf("write %d object counters: %w", end-at, err))
		}
	}
	return errors.Join(errs...)
}
