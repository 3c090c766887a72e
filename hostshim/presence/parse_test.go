package presence

import "testing"

// FuzzParse feeds every parser of kernel bytes; none may panic.
func FuzzParse(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 12, 0, 4, 0x80, 8, 0, 1, 0, 0, 0, 0, 2})
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (hook, error){parseChain, parseFlowtable} {
			if h, err := parse(b); err == nil {
				h.presences(nil)
			}
		}
		parseQdisc(b)
		parseSPDInfo(b)
	})
}
