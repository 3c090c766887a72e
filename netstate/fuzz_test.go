package netstate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// decoder is what all row types share.
type decoder interface{ Decode(raw []byte) error }

// law checks what must hold of any bytes for a kind's decoder, its key and Equal.
func law(t *testing.T, kind Kind, raw []byte, fresh func() decoder) {
	before := bytes.Clone(raw)
	one, two := fresh(), fresh()
	err := one.Decode(raw)
	var de *DecodeError
	if err != nil && !errors.As(err, &de) {
		t.Fatalf("error is no DecodeError: %v", err)
	}
	if de != nil && (de.Offset < 0 || de.Offset > len(raw)) {
		t.Fatalf("offset %d outside of %d bytes: %v", de.Offset, len(raw), err)
	}
	norm := Normalize(raw)
	if err2 := two.Decode(norm); (err == nil) != (err2 == nil) || err == nil && !reflect.DeepEqual(one, two) {
		t.Fatalf("normalized decodes to %+v (%v), want %+v (%v)", two, err2, one, err)
	}
	// A reused receiver gives the same as a fresh one.
	if err == nil {
		if err := one.Decode(raw); err != nil || !same(one, two) {
			t.Fatalf("decoded again: %+v (%v), want %+v", one, err, two)
		}
	}
	key, _, kerr := KeyOf(raw)
	nkey, _, nerr := KeyOf(norm)
	if key != nkey || (kerr == nil) != (nerr == nil) {
		t.Fatalf("normalized has key %+v (%v), want %+v (%v)", nkey, nerr, key, kerr)
	}
	if kerr == nil && key.Kind != kind && err == nil {
		t.Fatalf("key of kind %v", key.Kind)
	}
	// What decodes is equal to itself.
	if err == nil && !Equal(kind, raw, norm) {
		t.Fatal("not equal to itself")
	}
	Equal(kind, raw, raw[:len(raw)/2])
	if len(raw) >= HeaderBytes {
		MergeRoute([][]byte{norm}, Message{
			Type: binary.NativeEndian.Uint16(raw[4:]), Flags: binary.NativeEndian.Uint16(raw[6:]),
			Raw: raw, Payload: raw[HeaderBytes:],
		})
	}
	if !bytes.Equal(before, raw) {
		t.Fatal("input changed")
	}
}

// same compares decoded rows; empty and nil slices are the same.
func same(a, b decoder) bool {
	if ra, ok := a.(*Route); ok {
		rb := b.(*Route)
		if len(ra.Legs) == 0 && len(rb.Legs) == 0 {
			ra.Legs, rb.Legs = nil, nil
		}
	}
	if na, ok := a.(*Nexthop); ok {
		nb := b.(*Nexthop)
		if len(na.Group) == 0 && len(nb.Group) == 0 {
			na.Group, nb.Group = nil, nil
		}
	}
	if la, ok := a.(*Link); ok {
		lb := b.(*Link)
		if len(la.AltNames) == 0 && len(lb.AltNames) == 0 {
			la.AltNames, lb.AltNames = nil, nil
		}
	}
	return reflect.DeepEqual(a, b)
}

func FuzzLink(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) { law(t, KindLink, raw, func() decoder { return new(Link) }) })
}

func FuzzAddr(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) { law(t, KindAddr, raw, func() decoder { return new(Addr) }) })
}

func FuzzNeighbor(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) { law(t, KindNeighbor, raw, func() decoder { return new(Neighbor) }) })
}

func FuzzRoute(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) { law(t, KindRoute, raw, func() decoder { return new(Route) }) })
}

func FuzzRule(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) { law(t, KindRule, raw, func() decoder { return new(Rule) }) })
}

func FuzzNexthop(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) { law(t, KindNexthop, raw, func() decoder { return new(Nexthop) }) })
}

// FuzzNextMessage: every block is cut into messages inside it, or refused.
func FuzzNextMessage(f *testing.F) {
	f.Add([]byte{17, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, block []byte) {
		for rest := block; len(rest) > 0; {
			m, next, err := NextMessage(rest)
			if err != nil {
				return
			}
			if len(next) >= len(rest) || len(m.Raw) < HeaderBytes || !bytes.Equal(m.Raw[HeaderBytes:], m.Payload) {
				t.Fatalf("message of %d bytes, %d left of %d", len(m.Raw), len(next), len(rest))
			}
			m.Errno()
			rest = next
		}
	})
}

// samples reads the committed corpus of a fuzz target: messages of a real kernel.
func samples(t testing.TB, target string) (out [][]byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "fuzz", target, "kernel-*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus for %s: %v", target, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "[]byte(")
		s, err := strconv.Unquote(strings.TrimSuffix(strings.TrimSpace(rest), ")"))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, []byte(s))
	}
	return out
}

// TestAllocations: the hot decoders, keys and comparisons allocate nothing.
func TestAllocations(t *testing.T) {
	var route Route
	var neighbor Neighbor
	for _, target := range []struct {
		name   string
		kind   Kind
		decode decoder
	}{
		{"FuzzRoute", KindRoute, &route}, {"FuzzNeighbor", KindNeighbor, &neighbor}, {"FuzzLink", KindLink, nil},
		{"FuzzAddr", KindAddr, nil}, {"FuzzRule", KindRule, nil}, {"FuzzNexthop", KindNexthop, nil},
	} {
		for i, raw := range samples(t, target.name) {
			other := Normalize(raw)
			if target.decode != nil {
				if err := target.decode.Decode(raw); err != nil {
					t.Fatal(err)
				}
				if n := testing.AllocsPerRun(20, func() { target.decode.Decode(raw) }); n != 0 {
					t.Errorf("%s %d: Decode allocates %v", target.name, i, n)
				}
			}
			if n := testing.AllocsPerRun(20, func() { KeyOf(raw) }); n != 0 {
				t.Errorf("%s %d: KeyOf allocates %v", target.name, i, n)
			}
			if n := testing.AllocsPerRun(20, func() { Equal(target.kind, raw, other) }); n != 0 {
				t.Errorf("%s %d: Equal allocates %v", target.name, i, n)
			}
		}
	}
}

// TestNoAmplification: no message makes a decoder take much more memory than it
// is long.
func TestNoAmplification(t *testing.T) {
	raw := samples(t, "FuzzRoute")[0][:HeaderBytes+12]
	legs := bytes.Repeat([]byte{8, 0, 0, 0, 1, 0, 0, 0}, 8000)
	raw = binary.NativeEndian.AppendUint16(bytes.Clone(raw), uint16(4+len(legs)))
	raw = binary.NativeEndian.AppendUint16(raw, 9)
	raw = append(raw, legs...)
	binary.NativeEndian.PutUint32(raw, uint32(len(raw)))
	raw[HeaderBytes+1], raw[HeaderBytes+2] = 0, 0
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var r Route
	if err := r.Decode(raw); err != nil || len(r.Legs) != 8000 {
		t.Fatal(len(r.Legs), err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64*uint64(len(raw)) {
		t.Errorf("%d bytes for a message of %d", grown, len(raw))
	}
}

func BenchmarkRouteDecode(b *testing.B) {
	var r Route
	benchmark(b, "FuzzRoute", func(raw []byte) { r.Decode(raw) })
}

func BenchmarkKeyOfRoute(b *testing.B) { benchmark(b, "FuzzRoute", func(raw []byte) { KeyOf(raw) }) }
func BenchmarkEqualRoute(b *testing.B) {
	benchmark(b, "FuzzRoute", func(raw []byte) { Equal(KindRoute, raw, raw) })
}

func benchmark(b *testing.B, target string, f func([]byte)) {
	all := samples(b, target)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f(all[i%len(all)])
	}
}
