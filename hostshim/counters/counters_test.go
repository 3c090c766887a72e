package counters_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"antiphon/bpf"
	"antiphon/hostshim/counters"
	"antiphon/transport"
)

// bpffs mounts a bpffs for the test.
func bpffs(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes BPF maps")
	}
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Skip("cannot mount a bpffs:", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return filepath.Join(dir, "antiphon")
}

func open(t testing.TB, dir string) *counters.Writer {
	t.Helper()
	w, err := counters.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// TestWrite reads the pinned maps as somebody else would.
func TestWrite(t *testing.T) {
	dir := bpffs(t)
	w := open(t, dir)
	objects, err := ebpf.LoadPinnedMap(filepath.Join(dir, "object_stats"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer objects.Close()
	dense, err := ebpf.LoadPinnedMap(filepath.Join(dir, "dense_stats"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dense.Close()
	object := func(kind uint8, digest uint64) ([]byte, error) {
		key := make([]byte, 16)
		key[0] = kind
		binary.NativeEndian.PutUint64(key[8:], digest)
		return objects.LookupBytes(key)
	}
	write := func(list ...*transport.Counter) error { return w.Write(&transport.Counters{Counters: list}) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(write(
		&transport.Counter{Kind: 4, Digest: 0xabc, Packets: 5, Bytes: 500, LastUsedNs: 9, Generation: 2},
		&transport.Counter{Kind: 1, Digest: 0xdef, DenseId: 8, Packets: 7, Bytes: 70},
		&transport.Counter{DenseId: 9, Packets: 3, Generation: 1},
	))
	b, err := object(4, 0xabc)
	must(err)
	if want := []uint64{5, 500, 9, 2}; binary.NativeEndian.Uint64(b) != want[0] || binary.NativeEndian.Uint64(b[8:]) != want[1] ||
		binary.NativeEndian.Uint64(b[16:]) != want[2] || binary.NativeEndian.Uint32(b[24:]) != uint32(want[3]) {
		t.Errorf("object % x, want %v", b, want)
	}
	if b, err := object(1, 0xdef); err != nil || b == nil || binary.NativeEndian.Uint64(b) != 7 {
		t.Errorf("link counter % x %v", b, err)
	}
	slot := func(id uint32) bpf.Value {
		var v bpf.Value
		must(dense.Lookup(id, &v))
		return v
	}
	if v := slot(8); v.Packets != 7 || v.Bytes != 70 {
		t.Errorf("dense 8: %+v", v)
	}
	must(write(&transport.Counter{DenseId: 9, Packets: 1, Generation: 0}))
	if v := slot(9); v.Packets != 3 || v.Generation != 1 {
		t.Errorf("an older generation was written: %+v", v)
	}
	must(write(&transport.Counter{DenseId: 9, Packets: 1, Generation: 2}))
	if v := slot(9); v.Packets != 1 {
		t.Errorf("a later generation was not: %+v", v)
	}
	// Gone is gone, and again is no error.
	gone := &transport.Counter{Kind: 4, Digest: 0xabc, Gone: true}
	must(write(gone))
	must(write(gone))
	if b, err := object(4, 0xabc); err != nil || b != nil {
		t.Errorf("deleted counter: % x %v", b, err)
	}
	// What is wrong is named; the rest is written.
	err = write(&transport.Counter{Kind: 99, Digest: 1}, &transport.Counter{DenseId: 1 << 30}, &transport.Counter{Kind: 2, Digest: 2, Packets: 1})
	if err == nil || !strings.Contains(err.Error(), "kind 99") || !strings.Contains(err.Error(), "dense id") {
		t.Errorf("error %v", err)
	}
	if b, err := object(2, 2); err != nil || b == nil {
		t.Errorf("the good one is missing: %v", err)
	}
	// Another process finds the maps as they are.
	must(w.Close())
	again := open(t, dir)
	must(again.Write(&transport.Counters{}))
	if v := slot(8); v.Packets != 7 {
		t.Errorf("maps were made anew: %+v", v)
	}
}

func TestLayout(t *testing.T) {
	dir := bpffs(t)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Pin(filepath.Join(dir, "object_stats")); err != nil {
		t.Fatal(err)
	}
	if _, err := counters.Open(dir); err == nil || !strings.Contains(err.Error(), "object_stats") || !errors.Is(err, ebpf.ErrMapIncompatible) {
		t.Errorf("error %v", err)
	}
	if _, err := counters.Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "bpffs") {
		t.Errorf("error %v", err)
	}
}

// BenchmarkHash and BenchmarkDense write 1,024 counters per round; Single is one
// bpf(2) call per counter, for comparison.
func BenchmarkHash(b *testing.B) {
	w, list := open(b, bpffs(b)), &transport.Counters{}
	for i := range 1024 {
		list.Counters = append(list.Counters, &transport.Counter{Kind: 4, Digest: uint64(i + 1), Packets: 1})
	}
	for b.Loop() {
		if err := w.Write(list); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDense(b *testing.B) {
	w, list := open(b, bpffs(b)), &transport.Counters{}
	for i := range 1024 {
		list.Counters = append(list.Counters, &transport.Counter{DenseId: uint32(i + 1), Packets: 1})
	}
	for b.Loop() {
		if err := w.Write(list); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSingle(b *testing.B) {
	dir := bpffs(b)
	open(b, dir)
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, "object_stats"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	for b.Loop() {
		for i := range 1024 {
			if err := m.Put(&bpf.ObjectKey{Kind: 4, Digest: uint64(i + 1)}, &bpf.Value{Packets: 1}); err != nil {
				b.Fatal(err)
			}
		}
	}
}
