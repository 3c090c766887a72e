package port_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"antiphon/hwmodel"
	"antiphon/hwmodel/port"
)

// count makes a board count by running frames through a switch.
func count(t *testing.T, board *port.Board, forwarded int) {
	t.Helper()
	w1, d1 := port.Pair()
	w2, d2 := port.Pair()
	_, h1 := port.Pair()
	_, h2 := port.Pair()
	before := board.Counters()[0].RX.Packets
	stop := run(t, []port.Port{{ID: 1, Name: "swp1", Wire: d1, Host: h1}, {ID: 2, Name: "swp2", Wire: d2, Host: h2}}, board)
	for i := range forwarded {
		check(t, w1.Send(testFrame(doForward, i, 60)))
	}
	receiveAll(t, w2, forwarded)
	waitFor(t, func() bool { return board.Counters()[0].RX.Packets == before+uint64(forwarded) })
	stop()
}

func TestBoardKeepsItsCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device.counters")
	for life := 1; life <= 3; life++ {
		board, err := port.OpenBoard(path, twoPorts)
		check(t, err)
		count(t, board, 10)
		c := board.Counters()
		if got := c[0].Forwarded; got != (hwmodel.PacketsBytes{Packets: uint64(10 * life), Bytes: uint64(600 * life)}) {
			t.Errorf("life %d: forwarded %v", life, got)
		}
		if got := c[1].TX.Packets; got != uint64(10*life) {
			t.Errorf("life %d: tx %d", life, got)
		}
		check(t, board.Close())
	}
}

func TestBoardIsOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device.counters")
	board, err := port.OpenBoard(path, twoPorts)
	check(t, err)
	defer board.Close()
	if _, err := port.OpenBoard(path, twoPorts); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("error %v", err)
	}
}

func TestBoardRefusesWhatIsNotItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "good")
	board, err := port.OpenBoard(path, twoPorts)
	check(t, err)
	check(t, board.Close())
	good, err := os.ReadFile(path)
	check(t, err)
	changed := func(at int, b byte) []byte {
		c := bytes.Clone(good)
		c[at] = b
		return c
	}
	renamed := []hwmodel.PortInfo{{ID: 1, Name: "swp1"}, {ID: 2, Name: "swp7"}}
	for _, c := range []struct {
		name    string
		content []byte
		ports   []hwmodel.PortInfo
		says    string
	}{
		{"empty", nil, twoPorts, "truncated: 0 bytes"},
		{"header cut", good[:20], twoPorts, "truncated: 20 bytes"},
		{"rows cut", good[:len(good)-8], twoPorts, "truncated or grown"},
		{"grown", append(bytes.Clone(good), 0), twoPorts, "truncated or grown"},
		{"foreign", []byte(strings.Repeat("something else ", 100)), twoPorts, "not a counters file"},
		{"version", changed(8, 77), twoPorts, "version is 77"},
		{"reasons", changed(16, 3), twoPorts, "number of reasons is 3"},
		{"ports", good, twoPorts[:1], "number of ports is 2, this device has 1"},
		{"names", good, renamed, `port 2 of the file is "swp2" (id 2), of this device "swp7" (id 2)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "device.counters")
			check(t, os.WriteFile(path, c.content, 0o600))
			_, err := port.OpenBoard(path, c.ports)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, expected one with %q", err, c.says)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, c.content) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

func TestBoardRefusesBadPorts(t *testing.T) {
	for says, ports := range map[string][]hwmodel.PortInfo{
		"has id 0":       {{Name: "a"}},
		"two ports have": {{ID: 1, Name: "a"}, {ID: 1, Name: "b"}},
		"longer than":    {{ID: 1, Name: strings.Repeat("x", 31)}},
	} {
		if _, err := port.NewBoard(ports); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, expected one with %q", err, says)
		}
	}
}
