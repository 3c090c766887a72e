package netnstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a Wire.
const (
	// patience is how long a frame that must arrive may take: far beyond any
	// scheduling delay, so that only a lost frame runs into it.
	patience = 10 * time.Second
	// receiveBuffer holds everything a test may have in flight.
	receiveBuffer = 32 << 20
	// maxFrame is the longest frame read: 64 KiB of IP and two tags.
	maxFrame = 65536 + 64
)

// Wire sends and captures raw frames on one link. It sees what the link
// receives, not what is sent through it.
type Wire struct {
	link string
	fd   int
	buf  []byte
	// Noise, if set, names received frames to forget, such as IsNoise.
	Noise func(frame []byte) bool
}

// Wire opens a link of the namespace; it is closed when the test ends.
func (n *NS) Wire(t testing.TB, link string) *Wire {
	t.Helper()
	w := &Wire{link: link, buf: make([]byte, maxFrame)}
	if err := n.Do(w.open); err != nil {
		t.Fatalf("wire %s: %v", link, err)
	}
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func (w *Wire) open() error {
	ifi, err := net.InterfaceByName(w.link)
	if err != nil {
		return err
	}
	// Protocol 0 until the socket is set up and bound: no frames of other links.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	set := func(level, opt, value int) {
		if err == nil {
			err = unix.SetsockoptInt(fd, level, opt, value)
		}
	}
	set(unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
	set(unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	set(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	if err == nil {
		err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_PROMISC})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index})
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("set up packet socket: %w", err)
	}
	w.fd = fd
	return nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// Send puts frames on the wire in order. All wires send from one and the same
// processor: veth hands frames to the sender's, whose queue is first come, first
// served, so a frame is done when a later one of any wire is (see Fence).
func (w *Wire) Send(t testing.TB, frames ...[]byte) {
	t.Helper()
	err := onOneProcessor(func() error {
		for i, f := range frames {
			if _, err := unix.Write(w.fd, f); err != nil {
				return fmt.Errorf("frame %d (%d bytes): %w", i, len(f), err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("send on %s: %v", w.link, err)
	}
}

// onOneProcessor calls fn with its thread bound to the first processor allowed.
func onOneProcessor(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("get affinity: %w", err)
	}
	cpu := 0
	for !allowed.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("set affinity: %w", err)
	}
	return errors.Join(fn(), unix.SchedSetaffinity(0, &allowed))
}

// Until reads frames until done says so and returns those before that one. It
// fails the test if nothing more arrives.
func (w *Wire) Until(t testing.TB, done func(frame []byte) bool) [][]byte {
	t.Helper()
	var got [][]byte
	deadline := time.Now().Add(patience)
	for {
		f, err := w.next(deadline)
		if err != nil {
			t.Fatalf("waiting on %s after %d frames: %v", w.link, len(got), err)
		}
		if done(f) {
			return got
		}
		if !isSentinel(f) && (w.Noise == nil || !w.Noise(f)) {
			got = append(got, f)
		}
	}
}

// Next returns the next frame that is no noise.
func (w *Wire) Next(t testing.TB) []byte {
	t.Helper()
	var frame []byte
	w.Until(t, func(f []byte) bool {
		frame = f
		return !isSentinel(f) && (w.Noise == nil || !w.Noise(f))
	})
	return frame
}

// Drain returns what has already arrived. Only after a Fence is that everything.
func (w *Wire) Drain(t testing.TB) [][]byte {
	t.Helper()
	var got [][]byte
	for {
		f, err := w.read()
		if errors.Is(err, unix.EAGAIN) {
			return got
		}
		if err != nil {
			t.Fatalf("read %s: %v", w.link, err)
		}
		if !isSentinel(f) && (w.Noise == nil || !w.Noise(f)) {
			got = append(got, f)
		}
	}
}

// next reads one frame, waiting for it until the deadline.
func (w *Wire) next(deadline time.Time) ([]byte, error) {
	for {
		f, err := w.read()
		if !errors.Is(err, unix.EAGAIN) {
			return f, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil, errors.New("no frame in time")
		}
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("poll: %w", err)
		}
	}
}

// read takes one frame off the socket with its outer VLAN tag back in place.
func (w *Wire) read() ([]byte, error) {
	var oob [128]byte
	for {
		n, oobn, _, from, err := unix.Recvmsg(w.fd, w.buf, oob[:], 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		return restoreTag(w.buf[:n], oob[:oobn]), nil
	}
}

// restoreTag copies a frame and puts back the tag that the kernel moved into
// struct tpacket_auxdata (linux/if_packet.h): status u32 at 0, tci u16 at 16,
// tpid u16 at 18, host order.
func restoreTag(frame, oob []byte) []byte {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return bytes.Clone(frame)
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		if status&unix.TP_STATUS_VLAN_VALID == 0 || len(frame) < 12 {
			continue
		}
		tpid := uint16(unix.ETH_P_8021Q)
		if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			tpid = binary.NativeEndian.Uint16(m.Data[18:])
		}
		out := make([]byte, 0, len(frame)+4)
		out = append(out, frame[:12]...)
		out = binary.BigEndian.AppendUint16(out, tpid)
		out = binary.BigEndian.AppendUint16(out, binary.NativeEndian.Uint16(m.Data[16:]))
		return append(out, frame[12:]...)
	}
	return bytes.Clone(frame)
}
