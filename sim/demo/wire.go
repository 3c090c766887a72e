package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"antiphon/hostshim/netns"

	"golang.org/x/sys/unix"
)

const (
	// receiveBuffer holds all that a capture may lag behind.
	receiveBuffer = 32 << 20
	maxFrame      = 65536 + 64
	// burst is how many packets of a flow go out before the next flow has its turn.
	burst = 25
	// window is how far the sender may run ahead of the captures: a TAP's queue
	// holds 500 packets.
	window = 200
)

// wire is a host's end of a cable: a sender, a capture, and a socket that takes
// the demo's packets so that the host does not answer them.
type wire struct {
	host  int
	fd    int
	sink  net.PacketConn
	first map[uint32]counted // by flow: what was captured, each packet once
	seen  map[[2]uint32]int  // flow and number: how often it was captured
}

func openWire(ns string, host int) (*wire, error) {
	space, err := netns.Open(ns)
	if err != nil {
		return nil, err
	}
	defer space.Close()
	w := &wire{host: host, fd: -1, first: map[uint32]counted{}, seen: map[[2]uint32]int{}}
	if err := space.Do(w.open); err != nil {
		w.close()
		return nil, fmt.Errorf("host %d: %w", host, err)
	}
	return w, nil
}

func (w *wire) open() (err error) {
	if w.sink, err = net.ListenPacket("udp", ":9999"); err != nil {
		return err
	}
	link, err := net.InterfaceByName("w" + strconv.Itoa(w.host))
	if err != nil {
		return err
	}
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	// Without the right to force it (user namespaces) the plain limit must do.
	if unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer); err != nil {
			return fmt.Errorf("receive buffer: %w", err)
		}
	}
	if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return fmt.Errorf("ignore outgoing: %w", err)
	}
	all := uint16(unix.ETH_P_ALL)
	if err := unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: link.Index}); err != nil {
		return fmt.Errorf("bind to w%d: %w", w.host, err)
	}
	return nil
}

func (w *wire) close() {
	if w.fd >= 0 {
		unix.Close(w.fd)
	}
	if w.sink != nil {
		w.sink.Close()
	}
}

// read captures what has arrived.
func (w *wire) read(buf []byte) error {
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("capture at host %d: %w", w.host, err)
		}
		if id, num, dst, ok := demoPacket(buf[:n]); ok && dst == hostMAC(w.host) {
			key := [2]uint32{id, num}
			if w.seen[key]++; w.seen[key] == 1 {
				c := w.first[id]
				c.add(n)
				w.first[id] = c
			}
		}
	}
}

// send sends all flows, a burst at a time in turns, never more than window ahead
// of the captures, and captures until every flow that is to be delivered has
// arrived in full, or ctx ends.
func send(ctx context.Context, wires []*wire, flows []*flow) (sent counted, err error) {
	out := 0 // sent packets that must be captured
	for at, more := 0, true; more; at += burst {
		more = false
		for _, f := range flows {
			for n := at; n < min(at+burst, f.count); n++ {
				frame, err := f.frame(n)
				if err != nil {
					return sent, err
				}
				if err := write(ctx, wires[f.from-1].fd, frame); err != nil {
					return sent, fmt.Errorf("send from host %d: %w", f.from, err)
				}
				sent.add(len(frame))
				more = true
				if f.delivered() {
					out++
				}
			}
			if err := capture(ctx, wires, out-window); err != nil {
				return sent, err
			}
		}
	}
	if err := capture(ctx, wires, out); err != nil {
		return sent, err
	}
	for _, f := range flows {
		f.received, f.to = counted{}, 0
		for _, w := range wires {
			if c := w.first[f.id]; c.packets > 0 {
				f.received = f.received.plus(c)
				f.to = w.host
			}
		}
	}
	return sent, nil
}

// capture reads what has arrived, and goes on until at least so many packets
// have been captured or ctx ends.
func capture(ctx context.Context, wires []*wire, atLeast int) error {
	buf := make([]byte, maxFrame)
	fds := make([]unix.PollFd, len(wires))
	for {
		have := 0
		for i, w := range wires {
			if err := w.read(buf); err != nil {
				return err
			}
			have += len(w.seen)
			fds[i] = unix.PollFd{Fd: int32(w.fd), Events: unix.POLLIN}
		}
		if have >= atLeast || ctx.Err() != nil {
			return nil
		}
		if _, err := unix.Poll(fds, int((100 * time.Millisecond).Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll captures: %w", err)
		}
	}
}

// write sends one frame; a full queue of the wire is waited for.
func write(ctx context.Context, fd int, frame []byte) error {
	for {
		err := unix.Send(fd, frame, 0)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 10); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// duplicates returns how many packets were captured more than once, anywhere.
func duplicates(wires []*wire) int {
	total := map[[2]uint32]int{}
	for _, w := range wires {
		for k, n := range w.seen {
			total[k] += n
		}
	}
	d := 0
	for _, n := range total {
		d += n - 1
	}
	return d
}
