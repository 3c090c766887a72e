package netdev

import "testing"

func FuzzParse(f *testing.F) {
	f.Add(make([]byte, 16))
	f.Add(append(make([]byte, 16), 8, 0, 3, 0, 'l', 'o', 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) { parse(b) })
}
