package port_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"antiphon/hwmodel"
	"antiphon/hwmodel/port"
)

// A test frame: destination 02:00:00:00:00:0X where X is what to do, a private
// ethertype, and a number.
const testType = 0x88b5

func testFrame(action byte, number, length int) []byte {
	f := make([]byte, length)
	copy(f, []byte{2, 0, 0, 0, 0, action, 2, 0, 0, 0, 1, 0, testType >> 8, testType & 0xff})
	binary.BigEndian.PutUint32(f[14:], uint32(number))
	return f
}

func isTestFrame(f []byte) bool {
	return len(f) > 14 && (binary.BigEndian.Uint16(f[12:]) == testType || binary.BigEndian.Uint16(f[12:]) == 0x8100)
}

// What a tinyPipe does by the last byte of the destination.
const (
	doTrap = iota
	doForward
	doDrop
	doForwardShort // cut to 60 bytes
	doNowhere      // forward to a port that does not exist
)

// tinyPipe sends ports 1 to 2 and 2 to 1, as the frame itself says.
type tinyPipe struct{ hwmodel.Pipe }

func (tinyPipe) Run(v *hwmodel.Vector) {
	for i := range v.N {
		v.Verdict[i], v.Reason[i], v.Out[i] = hwmodel.Trap, hwmodel.ReasonNotIP, 0
		if binary.BigEndian.Uint16(v.Frame[i][12:]) != testType {
			continue
		}
		switch v.Frame[i][5] {
		case doForward, doForwardShort, doNowhere:
			v.Verdict[i], v.Reason[i], v.Out[i] = hwmodel.Forward, hwmodel.ReasonNone, 3-v.In[i]
			v.Frame[i][0] |= 4 // a rewrite
			if v.Frame[i][5] == doForwardShort {
				v.Frame[i] = v.Frame[i][:60]
			}
			if v.Frame[i][5] == doNowhere {
				v.Out[i] = 99
			}
		case doDrop:
			v.Verdict[i], v.Reason[i] = hwmodel.Drop, hwmodel.ReasonBlackhole
		}
	}
}

func rewritten(f []byte) []byte {
	out := bytes.Clone(f)
	out[0] |= 4
	return out
}

var twoPorts = []hwmodel.PortInfo{{ID: 1, Name: "swp1"}, {ID: 2, Name: "swp2"}}

// run runs a switch over the ports until the test ends.
func run(t *testing.T, ports []port.Port, board *port.Board) (stop func()) {
	t.Helper()
	return runPoliced(t, ports, board, port.DefaultPolicing())
}

func runPoliced(t *testing.T, ports []port.Port, board *port.Board, rates port.Policing) (stop func()) {
	t.Helper()
	s, err := port.NewSwitch(tinyPipe{}, ports, board, rates, zerolog.Nop())
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		check(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

func balanced(t *testing.T, c hwmodel.PortCounters) {
	t.Helper()
	total := c.Forwarded.Packets + c.Trapped.Packets
	bytes := c.Forwarded.Bytes + c.Trapped.Bytes
	for _, d := range c.Dropped {
		total += d.Packets
		bytes += d.Bytes
	}
	if c.RX.Packets != total || c.RX.Bytes != bytes {
		t.Errorf("port %d: rx %v, expected %d packets and %d bytes", c.Port, c.RX, total, bytes)
	}
}

func receiveAll(t *testing.T, e port.Endpoint, want int) (all [][]byte) {
	t.Helper()
	timer := time.AfterFunc(5*time.Second, func() { e.Interrupt() })
	defer timer.Stop()
	frames := make([][]byte, hwmodel.VectorSize)
	for len(all) < want {
		n, err := e.Receive(frames)
		if err != nil {
			t.Fatalf("after %d of %d frames: %v", len(all), want, err)
		}
		for _, f := range frames[:n] {
			all = append(all, bytes.Clone(f))
		}
	}
	return all
}

func TestSwitchInMemory(t *testing.T) {
	var ports []port.Port
	wire, host := map[int]*port.Memory{}, map[int]*port.Memory{}
	for i, p := range twoPorts {
		w, deviceWire := port.Pair()
		h, deviceHost := port.Pair()
		wire[i+1], host[i+1] = w, h
		ports = append(ports, port.Port{ID: p.ID, Name: p.Name, Wire: deviceWire, Host: deviceHost})
	}
	board, err := port.NewBoard(port.Infos(ports))
	check(t, err)
	const n = 300 // more than a vector
	for i := range n {
		check(t, wire[1].Send(testFrame(doForwardShort, i, 100)))
		check(t, wire[1].Send(testFrame(doTrap, i, 70)))
	}
	check(t, wire[1].Send(testFrame(doDrop, 0, 64)))
	check(t, wire[1].Send(testFrame(doNowhere, 0, 65)))
	check(t, host[2].Send(testFrame(doDrop, 7, 80))) // whatever it says: injected
	stop := run(t, ports, board)

	for i, f := range receiveAll(t, host[1], n) {
		if want := testFrame(doTrap, i, 70); !bytes.Equal(f, want) {
			t.Fatalf("trapped frame %d: % x, expected % x", i, f, want)
		}
	}
	forwarded := 0
	for _, f := range receiveAll(t, wire[2], n+1) {
		if bytes.Equal(f, testFrame(doDrop, 7, 80)) {
			continue
		}
		if want := rewritten(testFrame(doForwardShort, forwarded, 60)); !bytes.Equal(f, want) {
			t.Fatalf("forwarded frame %d: % x, expected % x", forwarded, f, want)
		}
		forwarded++
	}
	waitFor(t, func() bool { return board.Counters()[0].RX.Packets == 2*n+2 })
	stop()

	c := board.Counters()
	balanced(t, c[0])
	balanced(t, c[1])
	pb := func(p, b uint64) hwmodel.PacketsBytes { return hwmodel.PacketsBytes{Packets: p, Bytes: b} }
	want := [2]hwmodel.PortCounters{
		{Port: 1, RX: pb(2*n+2, n*170+129), Forwarded: pb(n, n*100), Trapped: pb(n, n*70)},
		{Port: 2, TX: pb(n+1, n*60+80), Injected: pb(1, 80)},
	}
	want[0].TrappedBy[hwmodel.ReasonNotIP] = pb(n, n*70)
	want[0].Dropped[hwmodel.ReasonBlackhole] = pb(1, 64)
	want[0].Dropped[hwmodel.ReasonTxFailed] = pb(1, 65)
	for i := range want {
		if c[i] != want[i] {
			t.Errorf("counters\n%+v, expected\n%+v", c[i], want[i])
		}
	}
}

// waitFor yields until a counter has moved: a frame is seen before it is counted.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal("counters do not come to rest")
		}
		<-time.After(time.Millisecond)
	}
}

func TestFullQueuesDropAndAreCounted(t *testing.T) {
	w, deviceWire := port.Pair()
	_, deviceHost := port.Pair()
	full, _ := port.Pair() // nobody reads the other end
	_, host2 := port.Pair()
	for full.Send(testFrame(doTrap, 0, 60)) == nil {
	}
	for deviceHost.Send(testFrame(doTrap, 0, 60)) == nil {
	}
	ports := []port.Port{{ID: 1, Name: "swp1", Wire: deviceWire, Host: deviceHost}, {ID: 2, Name: "swp2", Wire: full, Host: host2}}
	board, err := port.NewBoard(twoPorts)
	check(t, err)
	run(t, ports, board)
	check(t, w.Send(testFrame(doForward, 0, 60)))
	check(t, w.Send(testFrame(doTrap, 0, 61)))
	waitFor(t, func() bool { return board.Counters()[0].RX.Packets == 2 })
	c := board.Counters()[0]
	if d := c.Dropped[hwmodel.ReasonTxFailed]; d.Packets != 1 || d.Bytes != 60 {
		t.Errorf("tx-failed %v, expected 1 packet of 60 bytes", d)
	}
	if d := c.Dropped[hwmodel.ReasonTrapUndeliverable]; d.Packets != 1 || d.Bytes != 61 {
		t.Errorf("trap-undeliverable %v, expected 1 packet of 61 bytes", d)
	}
	balanced(t, c)
}

// Traps beyond the rate are dropped and counted; what is forwarded is not.
func TestFloodsArePoliced(t *testing.T) {
	w, deviceWire := port.Pair()
	h, deviceHost := port.Pair()
	out, deviceOut := port.Pair()
	_, host2 := port.Pair()
	ports := []port.Port{{ID: 1, Name: "swp1", Wire: deviceWire, Host: deviceHost}, {ID: 2, Name: "swp2", Wire: deviceOut, Host: host2}}
	board, err := port.NewBoard(twoPorts)
	check(t, err)
	rates := port.DefaultPolicing()
	rates[hwmodel.ReasonNotIP] = port.Rate{PPS: 1, Burst: 10}
	const n = 200
	for i := range n {
		check(t, w.Send(testFrame(doTrap, i, 70)))
		check(t, w.Send(testFrame(doForward, i, 70)))
	}
	began := time.Now()
	stop := runPoliced(t, ports, board, rates)
	for i, f := range receiveAll(t, h, 10) {
		if want := testFrame(doTrap, i, 70); !bytes.Equal(f, want) {
			t.Fatalf("trapped frame %d: % x, expected % x", i, f, want)
		}
	}
	receiveAll(t, out, n)
	waitFor(t, func() bool { return board.Counters()[0].RX.Packets == 2*n })
	stop()
	c := board.Counters()[0]
	balanced(t, c)
	most := 10 + uint64(time.Since(began)/time.Second)
	trapped, policed := c.TrappedBy[hwmodel.ReasonNotIP], c.Dropped[hwmodel.ReasonPoliced]
	if trapped.Packets < 10 || trapped.Packets > most || trapped.Packets+policed.Packets != n || policed.Bytes != policed.Packets*70 {
		t.Errorf("of %d traps %v passed and %v were policed, expected 10 to %d to pass", n, trapped, policed, most)
	}
	if c.Forwarded.Packets != n {
		t.Errorf("forwarded %v of %d", c.Forwarded, n)
	}
}

func TestSwitchWantsARowForEachPort(t *testing.T) {
	board, err := port.NewBoard(twoPorts)
	check(t, err)
	_, err = port.NewSwitch(tinyPipe{}, []port.Port{{ID: 3, Name: "swp3"}}, board, port.DefaultPolicing(), zerolog.Nop())
	if err == nil || err.Error() != "port 3 (swp3) has no row on the board" {
		t.Errorf("error %v", err)
	}
}

func ExampleInfos() {
	fmt.Println(port.Infos([]port.Port{{ID: 1, Name: "swp1"}}))
	// Output: [{1 swp1}]
}
