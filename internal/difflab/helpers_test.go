package difflab

import "strings"

// tag returns a change that puts an 802.1Q tag into the frame.
func tag(vid uint16) func([]byte) []byte {
	return func(f []byte) []byte {
		return append(append(append([]byte(nil), f[:12]...), 0x81, 0, byte(vid>>8), byte(vid)), f[12:]...)
	}
}

// checksumTo picks the identification so that the header checksum is sum.
func checksumTo(sum uint16) func(*packet) {
	return mangle(func(ip []byte) {
		for id := range 1 << 16 {
			ip[4], ip[5] = byte(id>>8), byte(id)
			resum(ip)
			if uint16(ip[10])<<8|uint16(ip[11]) == sum {
				return
			}
		}
		panic("no identification gives that checksum")
	})
}

// extension puts an 8-byte IPv6 extension header before the payload.
func extension(typ byte, body []byte) func(*packet) {
	return func(p *packet) {
		p.frame = func(f []byte) []byte {
			ip := f[14:]
			next := ip[6]
			out := append([]byte(nil), f[:54]...)
			out[14+6] = typ
			length := uint16(ip[4])<<8 | uint16(ip[5]) + 8
			out[14+4], out[14+5] = byte(length>>8), byte(length)
			out = append(out, next, 0)
			out = append(out, body...)
			return append(out, f[54:]...)
		}
	}
}

func split(lines string) []string { return strings.Split(lines, ";") }
