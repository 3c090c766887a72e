package port_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"antiphon/hwmodel"
	"antiphon/hwmodel/port"
)

func ip(t *testing.T, line string, args ...any) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(fmt.Sprintf(line, args...))...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", fmt.Sprintf(line, args...), err, out)
	}
}

// newVeth makes a veth pair eN (the host's) and pN (the port's), both up and
// without IPv6, and returns the port's endpoint.
func newVeth(t *testing.T, n int) *port.File {
	t.Helper()
	e, p := fmt.Sprintf("e%d", n), fmt.Sprintf("p%d", n)
	ip(t, "link add %s type veth peer name %s", e, p)
	for _, name := range []string{e, p} {
		ip(t, "link set %s addrgenmode none", name)
		ip(t, "link set %s up", name)
	}
	fd, err := port.OpenPacket(p)
	check(t, err)
	f, err := port.NewFile(fd, p)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// verify checks what the kernel may have left undone: lengths and checksums of
// an IPv4 frame with UDP or TCP.
func verify(t *testing.T, frame []byte) {
	t.Helper()
	l3 := 14
	if frame[12] == 0x81 {
		l3 = 18
	}
	header := frame[l3:]
	total := int(binary.BigEndian.Uint16(header[2:]))
	if len(frame) > l3+1500 || total > len(header) {
		t.Fatalf("frame of %d bytes with total length %d", len(frame), total)
	}
	if onesComplement(header[:20], 0) != 0xffff {
		t.Fatalf("IP header checksum is wrong: % x", header[:20])
	}
	l4 := header[20:total]
	pseudo := uint32(header[9]) + uint32(len(l4))
	if onesComplement(append(bytes.Clone(header[12:20]), l4...), pseudo) != 0xffff {
		t.Fatalf("transport checksum is wrong: % x", frame[:60])
	}
}

func onesComplement(b []byte, sum uint32) uint32 {
	for i, c := range b {
		if i%2 == 0 {
			sum += uint32(c) << 8
		} else {
			sum += uint32(c)
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}

func TestPacketSocket(t *testing.T) {
	inNetns(t)
	f := newVeth(t, 1)
	ip(t, "addr add 10.0.0.1/24 dev e1")
	ip(t, "neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev e1 nud permanent")
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4000}, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 5000})
	check(t, err)
	defer conn.Close()

	// Steps, not subtests: those would run in another namespace.
	step := func(name string, f func()) {
		t.Log(name)
		f()
	}
	step("checksum", func() {
		_, err := conn.Write([]byte("hello"))
		check(t, err)
		frame := receiveAll(t, f, 1)[0]
		verify(t, frame)
		if got := string(frame[42:47]); got != "hello" {
			t.Errorf("payload %q", got)
		}
	})
	step("merged datagrams", func() {
		raw, err := conn.SyscallConn()
		check(t, err)
		check(t, raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000)
		}))
		check(t, err)
		payload := make([]byte, 4500)
		for i := range payload {
			payload[i] = byte(i * 31)
		}
		_, err = conn.Write(payload)
		check(t, err)
		var got []byte
		for _, frame := range receiveAll(t, f, 5) {
			verify(t, frame)
			got = append(got, frame[42:]...)
		}
		if !bytes.Equal(got, payload) {
			t.Errorf("payload of %d bytes differs", len(got))
		}
	})
	step("tag", func() {
		tagged := testFrame(0, 1, 60)
		copy(tagged[12:], []byte{0x81, 0x00, 0x60, 0x07, testType >> 8, testType & 0xff})
		newHost(t, "e1").send(tagged)
		if frame := receiveAll(t, f, 1)[0]; !bytes.Equal(frame, tagged) {
			t.Errorf("received % x, expected % x", frame, tagged)
		}
		tagged[12], tagged[13] = 0x88, 0xa8
		newHost(t, "e1").send(tagged)
		if frame := receiveAll(t, f, 1)[0]; !bytes.Equal(frame, tagged) {
			t.Errorf("received % x, expected % x", frame, tagged)
		}
	})
	step("to the wire, unseen by itself", func() {
		e1 := newHost(t, "e1")
		check(t, f.Send(testFrame(0, 2, 60)))
		e1.expect(testFrame(0, 2, 60))
		e1.send(testFrame(0, 3, 60))
		if frame := receiveAll(t, f, 1)[0]; !bytes.Equal(frame, testFrame(0, 3, 60)) {
			t.Errorf("received % x", frame)
		}
		if err := f.Send(testFrame(0, 0, 3000)); err == nil {
			t.Error("a frame longer than the MTU was sent")
		}
	})
	step("down and up again", func() {
		ip(t, "link set p1 down")
		if _, err := f.Receive(make([][]byte, 1)); err == nil {
			t.Error("no error from a netdev that is down")
		}
		ip(t, "link set p1 up")
		// To look at a link makes the kernel act on its new carrier now; until
		// then it throws away what is sent (linkwatch_sync_dev).
		ip(t, "link show dev e1")
		newHost(t, "e1").send(testFrame(0, 4, 60))
		if frame := receiveAll(t, f, 1)[0]; !bytes.Equal(frame, testFrame(0, 4, 60)) {
			t.Errorf("received % x", frame)
		}
	})
}

// crossPipe forwards everything between ports 1 and 2.
type crossPipe struct {
	hwmodel.Pipe
	longest chan int // the longest frame of each vector
}

func (c crossPipe) Run(v *hwmodel.Vector) {
	longest := 0
	for i := range v.N {
		v.Verdict[i], v.Out[i] = hwmodel.Forward, 3-v.In[i]
		longest = max(longest, len(v.Frame[i]))
	}
	select {
	case c.longest <- longest:
	default:
	}
}

// A TCP transfer between two hosts whose netdevs merge segments and leave
// checksums to be done comes through, in frames that fit the wire.
func TestTCPThroughPacketSockets(t *testing.T) {
	for name, net := range map[string]string{"IPv4": "10.0.0.%d/24", "IPv6": "fd00::%d/64"} {
		t.Run(name, func(t *testing.T) { transfer(t, net) })
	}
}

// transfer moves some MiB between hosts 1 and 2 of a network.
func transfer(t *testing.T, network string) {
	inNetns(t)
	address := func(host int) string { return fmt.Sprintf(network, host) }
	host, _, _ := strings.Cut(address(2), "/")
	server := net.JoinHostPort(host, "5000")
	one, two := newVeth(t, 1), newVeth(t, 2)

	// The server lives in a namespace of its own.
	tid, moved, listening := make(chan int), make(chan struct{}), make(chan net.Listener)
	go func() {
		defer close(listening)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		tid <- unix.Gettid()
		<-moved
		ip(t, "addr add %s dev e2 nodad", address(2))
		ip(t, "link set e2 up")
		listener, err := net.Listen("tcp", server)
		if err != nil {
			t.Error(err)
			return
		}
		listening <- listener
	}()
	ip(t, "link set e2 netns %d", <-tid)
	close(moved)
	listener := <-listening
	if listener == nil {
		return
	}
	defer listener.Close()
	ip(t, "addr add %s dev e1 nodad", address(1))

	pipe := crossPipe{longest: make(chan int, 1<<16)}
	_, h1 := port.Pair()
	_, h2 := port.Pair()
	board, err := port.NewBoard(twoPorts)
	check(t, err)
	s, err := port.NewSwitch(pipe, []port.Port{{ID: 1, Name: "swp1", Wire: one, Host: h1}, {ID: 2, Name: "swp2", Wire: two, Host: h2}}, board, port.DefaultPolicing(), zerolog.Nop())
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		check(t, <-done)
	}()

	const size = 8 << 20
	payload := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	received := make(chan []byte, 1)
	go func() {
		defer close(received)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		all, err := io.ReadAll(conn)
		if err != nil {
			t.Error(err)
		}
		received <- all
	}()
	conn, err := net.DialTimeout("tcp", server, 10*time.Second)
	check(t, err)
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = conn.Write(payload)
	check(t, err)
	check(t, conn.Close())
	if !bytes.Equal(<-received, payload) {
		t.Error("what came through differs")
	}
	for len(pipe.longest) > 0 {
		if n := <-pipe.longest; n > 1514 {
			t.Fatalf("frame of %d bytes", n)
		}
	}
	c := board.Counters()
	t.Logf("%d frames, %d lost", c[0].RX.Packets, c[0].Dropped[hwmodel.ReasonTxFailed].Packets)
	if c[0].RX.Packets < size/1500 {
		t.Errorf("%d frames received", c[0].RX.Packets)
	}
}

// flood sends frames into e1. It ends when every one of them has arrived at p1,
// in whichever of its sockets were opened later than the witness.
func flood(t *testing.T, witness *host, frames int) {
	t.Helper()
	e1 := newHost(t, "e1")
	for i := range frames {
		e1.send(testFrame(doDrop, i, 60))
		if i%64 == 63 || i == frames-1 { // fewer than the witness's queue takes
			for j := i &^ 63; j <= i; j++ {
				witness.expect(testFrame(doDrop, j, 60))
			}
		}
	}
}

// A reader that is held up loses nothing of a burst.
func TestPacketSocketTakesBursts(t *testing.T) {
	inNetns(t)
	f := newVeth(t, 1)
	const frames = 8192
	flood(t, newHost(t, "p1"), frames)
	for i, frame := range receiveAll(t, f, frames) {
		if !bytes.Equal(frame, testFrame(doDrop, i, 60)) {
			t.Fatalf("frame %d is % x", i, frame)
		}
	}
	if lost := f.Lost(); lost != 0 {
		t.Errorf("%d lost", lost)
	}
}

// What a queue loses all the same is said.
func TestLossIsSaid(t *testing.T) {
	inNetns(t)
	newVeth(t, 1)
	witness := newHost(t, "p1")
	fd, err := port.OpenPacket("p1")
	check(t, err)
	check(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)) // the kernel makes it a few frames
	f, err := port.NewFile(fd, "p1")
	check(t, err)
	defer f.Close()
	const frames = 1000
	flood(t, witness, frames)

	_, h := port.Pair()
	board, err := port.NewBoard(twoPorts[:1])
	check(t, err)
	var log bytes.Buffer
	s, err := port.NewSwitch(tinyPipe{}, []port.Port{{ID: 1, Name: "swp1", Wire: f, Host: h}}, board, port.DefaultPolicing(), zerolog.New(&log))
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	waitFor(t, func() bool { return board.Counters()[0].RX.Packets > 0 })
	cancel()
	check(t, <-done)
	rx, lost := board.Counters()[0].RX.Packets, f.Lost()
	if lost == 0 || rx+lost != frames {
		t.Errorf("%d received and %d lost, of %d", rx, lost, frames)
	}
	if want := fmt.Sprintf(`"port":"swp1","packets":%d`, lost); !strings.Contains(log.String(), want) {
		t.Errorf("said %q, expected %s", log.String(), want)
	}
}
