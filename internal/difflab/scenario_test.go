package difflab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// scenario is a router's life: rounds of lines that change it, each followed by
// frames. The first round's lines are the configuration, on genPorts ports
// without any address.
type scenario struct {
	name   string
	rounds []round
}

// round is one change and what is sent after it. Lines are "ip …", "sysctl
// path=value" in the router's namespace, and "wire …", an ip line at the other
// end of the cables. Lines that the kernel refuses are passed over: what holds
// is what it then has.
type round struct {
	lines []string
	shots []shot
}

// shot is a frame on its way into port in. Its payload carries a tag, by which
// whatever it leads to is known again.
type shot struct {
	in    int
	frame []byte
	items []string // lines of the kernel behaviours page it is about
}

// genPorts is the number of ports of a scenario's router.
const genPorts = 4

// A tag is tagMagic, the number of the run (two bytes), and that of the frame.
const (
	tagMagic = "\xa7\x1f\xf0\x17"
	tagBytes = len(tagMagic) + 4
)

// tagged returns a copy of the frame with the tag of a run and a number.
func tagged(frame []byte, run, number uint16) []byte {
	f := bytes.Clone(frame)
	if i := bytes.Index(f, []byte(tagMagic)); i >= 0 && i+tagBytes <= len(f) {
		binary.BigEndian.PutUint16(f[i+4:], run)
		binary.BigEndian.PutUint16(f[i+6:], number)
	}
	return f
}

// tagOf reads a frame's tag, wherever it stands (errors quote it).
func tagOf(frame []byte) (run, number uint16, ok bool) {
	i := bytes.Index(frame, []byte(tagMagic))
	if i < 0 || i+tagBytes > len(frame) {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(frame[i+4:]), binary.BigEndian.Uint16(frame[i+6:]), true
}

// String is the scenario as text that goes into keptScenarios.
func (s *scenario) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "{name: %q, rounds: []round{\n", s.name)
	for _, r := range s.rounds {
		b.WriteString("\t{lines: []string{\n")
		for _, l := range r.lines {
			fmt.Fprintf(&b, "\t\t%q,\n", l)
		}
		b.WriteString("\t}, shots: []shot{\n")
		for _, x := range r.shots {
			fmt.Fprintf(&b, "\t\t{in: %d, frame: unhex(%q)},\n", x.in, fmt.Sprintf("%x", x.frame))
		}
		b.WriteString("\t}},\n")
	}
	b.WriteString("}},")
	return b.String()
}
