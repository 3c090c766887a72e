package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// frameOf builds a frame from the words of trace.
func frameOf(t testing.TB, line string) []byte {
	t.Helper()
	args, err := parseTrace(strings.Fields(line))
	if err != nil {
		t.Fatal(err)
	}
	return args.Frame
}

// packetsOf are the captured packets of these tests, the port of each first.
func packetsOf(t testing.TB) (ports []string, frames [][]byte) {
	t.Helper()
	for _, line := range []string{
		"in swp1 src 10.0.1.9 dst 10.9.3.4 proto tcp dport 443",
		"in swp2 src 10.0.2.2 dst 10.0.1.1",
		"in swp1 src 10.0.1.9 dst 192.0.2.1",
	} {
		ports, frames = append(ports, strings.Fields(line)[1]), append(frames, frameOf(t, line))
	}
	return ports, frames
}

func infoOf(frame []byte, index int) gopacket.CaptureInfo {
	return gopacket.CaptureInfo{Timestamp: time.Unix(0, 0), CaptureLength: len(frame), Length: len(frame), InterfaceIndex: index}
}

// ngFile is a pcapng file of the packets, whose interfaces have the ports' names.
func ngFile(t testing.TB) []byte {
	t.Helper()
	var file bytes.Buffer
	ports, frames := packetsOf(t)
	w, err := pcapgo.NewNgWriterInterface(&file, pcapgo.NgInterface{Name: "swp1", LinkType: layers.LinkTypeEthernet}, pcapgo.NgWriterOptions{})
	if err == nil {
		_, err = w.AddInterface(pcapgo.NgInterface{Name: "swp2", LinkType: layers.LinkTypeEthernet})
	}
	for i := range frames {
		if err == nil {
			err = w.WritePacket(infoOf(frames[i], int(ports[i][3]-'1')), frames[i])
		}
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// pcapFile is a classic file of the packets.
func pcapFile(t testing.TB) []byte {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	err := w.WriteFileHeader(65535, layers.LinkTypeEthernet)
	_, frames := packetsOf(t)
	for _, frame := range frames {
		if err == nil {
			err = w.WritePacket(infoOf(frame, 0), frame)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// TestTraceCapture compares what trace -r says with testdata/trace-capture.txt.
func TestTraceCapture(t *testing.T) {
	state, _ := serve(t, "agent")
	dir := t.TempDir()
	bad := ngFile(t)
	for name, data := range map[string][]byte{"ports.pcapng": bad, "plain.pcap": pcapFile(t), "short.pcapng": bad[:len(bad)-9], "empty.pcap": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got strings.Builder
	for _, line := range []string{
		"trace -r DIR/ports.pcapng", "trace -r DIR/ports.pcapng -n 2 -j", "trace -r DIR/plain.pcap --in-port swp2 -n 1",
		"trace -r DIR/plain.pcap", "trace -r DIR/ports.pcapng --in-port swp9", "trace -r DIR/short.pcapng -j", "trace -r DIR/empty.pcap",
		"trace -r DIR/none", "trace -r DIR/plain.pcap in swp1", "trace -n 3", "trace -r DIR/plain.pcap -n -1",
	} {
		code, out, errOut := antiphon(t, append([]string{"--state", state}, strings.Fields(strings.ReplaceAll(line, "DIR", dir))...)...)
		for doc := range strings.Lines(out) {
			if strings.Contains(line, "-j") && !json.Valid([]byte(doc)) {
				t.Errorf("%s: not a JSON document: %s", line, doc)
			}
		}
		fmt.Fprintf(&got, "$ antiphon %s\n%s%s[%d]\n\n", line, out, errOut, code)
	}
	text := strings.ReplaceAll(strings.ReplaceAll(got.String(), dir, "DIR"), state, "STATE")
	path := filepath.Join("testdata", "trace-capture.txt")
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("differs from %s (-update writes it anew):\n%s", path, text)
	}
}

// readAll reads a capture to its end or first error.
func readAll(data []byte, port string) (all []captured, err error) {
	c, err := openCapture(bytes.NewReader(data), port)
	for err == nil {
		var p captured
		if p, err = c.next(); err == nil {
			all = append(all, p)
		}
	}
	if errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "offset") {
		err = nil
	}
	return all, err
}

func TestReadCapture(t *testing.T) {
	ports, frames := packetsOf(t)
	for name, c := range map[string]struct {
		data []byte
		port string
	}{"pcapng": {ngFile(t), ""}, "pcap": {pcapFile(t), "swp7"}, "pcapng, port given": {ngFile(t), "swp7"}} {
		all, err := readAll(c.data, c.port)
		if err != nil || len(all) != len(frames) {
			t.Errorf("%s: %d packets, %v", name, len(all), err)
			continue
		}
		for i, p := range all {
			want := ports[i]
			if c.port != "" {
				want = c.port
			}
			if p.number != i+1 || p.port != want || !bytes.Equal(p.frame, frames[i]) {
				t.Errorf("%s: packet %d: %+v", name, i+1, p)
			}
		}
	}
}

// Errors name the packet and the place of its record.
func TestBadCaptures(t *testing.T) {
	ng, classic := ngFile(t), pcapFile(t)
	second := pcapHeader + pcapRecord + minFrame
	with := func(data []byte, at int, value uint32) []byte {
		data = bytes.Clone(data)
		binary.LittleEndian.PutUint32(data[at:], value)
		return data
	}
	last := len(ng) - int(binary.LittleEndian.Uint32(ng[len(ng)-4:]))
	for _, c := range []struct {
		name, says string
		data       []byte
	}{
		{"empty", "capture, offset 0: the file ends too soon", nil},
		{"text", "neither pcap nor pcapng", []byte("tea for two and two for tea")},
		{"gzip", "gunzip it first", []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0}},
		{"another link type", "link type 113, want 1", with(classic, 20, 113)},
		{"a long record", fmt.Sprintf("packet 2 at offset %d: a captured length of 4294967295 bytes", second), with(classic, second+8, 1<<32-1)},
		{"a cut record", fmt.Sprintf("packet 2 at offset %d: only 60 of 1500 bytes were captured", second), with(classic, second+12, 1500)},
		{"a cut file", fmt.Sprintf("packet 2 at offset %d: the file ends too soon", second), classic[:second+20]},
		{"a cut block", fmt.Sprintf("packet 3 at offset %d: the file ends too soon", last), ng[:len(ng)-1]},
		{"a block that is none", fmt.Sprintf("packet 3 at offset %d: block of type 6: length 7,", last), with(ng, last+4, 7)},
		{"two lengths", fmt.Sprintf("packet 3 at offset %d: block of type 6: length %d at its beginning, 4 at its end", last, len(ng)-last), with(ng, len(ng)-4, 4)},
		{"a packet beyond its block", fmt.Sprintf("packet 3 at offset %d: block of type 6: a packet of 99999 bytes", last), with(ng, last+20, 99999)},
		{"an unknown interface", fmt.Sprintf("packet 3 at offset %d: Interface id 9", last), with(ng, last+8, 9)},
		{"no byte order", "byte order magic", with(ng, 8, 7)},
	} {
		if _, err := readAll(c.data, "swp1"); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
}

// FuzzCapture: whatever a file holds, reading it ends, costs no more memory than
// the file is long, and gives whole frames of known ports.
func FuzzCapture(f *testing.F) {
	f.Add(ngFile(f), "")
	f.Add(pcapFile(f), "swp1")
	f.Fuzz(func(t *testing.T, data []byte, port string) {
		all, err := readAll(data, port)
		read := 0
		for i, p := range all {
			if read += len(p.frame); p.number != i+1 || p.port == "" || len(p.frame) > maxTraced {
				t.Errorf("packet %d: %+v", i+1, p)
			}
		}
		if read > len(data) {
			t.Errorf("%d bytes in frames of a file of %d", read, len(data))
		}
		if err != nil && strings.Contains(err.Error(), "panicked") {
			t.Log(err) // caught, and no fault of ours
		}
	})
}
