package port

import (
	"encoding/binary"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// virtioHeader is the length of struct virtio_net_hdr (linux/virtio_net.h),
// which stands before each frame of a packet socket with PACKET_VNET_HDR: it
// says where an unfinished checksum is and how a merged packet is to be cut.
const virtioHeader = 10

// packetBuffer is what the queue of a packet socket may hold in bytes: some ten
// thousand frames, as many milliseconds as a reader may well be held up. What
// net.core.rmem_default allows is a hundred frames.
const packetBuffer = 32 << 20

// OpenPacket opens a packet socket on an existing netdev of the calling
// thread's network namespace, to be the wire side of a port, and returns the
// descriptor. The netdev is promiscuous as long as the socket lives. What the
// host itself sends by the netdev is not received.
func OpenPacket(netdev string) (int, error) {
	link, err := net.InterfaceByName(netdev)
	if err != nil {
		return -1, fmt.Errorf("packet socket on %s: %w", netdev, err)
	}
	// Protocol 0: nothing arrives before the options and the netdev are set.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket on %s: %w", netdev, err)
	}
	if err := setPacket(fd, link.Index); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("packet socket on %s: %w", netdev, err)
	}
	return fd, nil
}

func setPacket(fd, ifindex int) error {
	for _, o := range []struct {
		name   string
		option int
	}{
		{"PACKET_AUXDATA", unix.PACKET_AUXDATA},
		{"PACKET_VNET_HDR", unix.PACKET_VNET_HDR},
		{"PACKET_IGNORE_OUTGOING", unix.PACKET_IGNORE_OUTGOING},
		{"PACKET_QDISC_BYPASS", unix.PACKET_QDISC_BYPASS},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o.option, 1); err != nil {
			return fmt.Errorf("set %s: %w", o.name, err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetBuffer); err != nil {
		// Without the privilege the kernel gives what net.core.rmem_max allows.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, packetBuffer); err != nil {
			return fmt.Errorf("set SO_RCVBUF: %w", err)
		}
	}
	all := uint16(unix.ETH_P_ALL)
	address := unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: ifindex}
	if err := unix.Bind(fd, &address); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	promiscuous := unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &promiscuous); err != nil {
		return fmt.Errorf("promiscuous: %w", err)
	}
	return nil
}

// Lost returns how many packets a packet socket has lost, because nobody took them from its queue in time. A packet
// may be several frames that the kernel had merged. Of a TAP it returns 0: the
// kernel counts those at the netdev.
func (f *File) Lost() uint64 {
	if !f.packet {
		return 0
	}
	// Reading them sets them back.
	stats, err := unix.GetsockoptTpacketStats(f.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return f.lost.Load()
	}
	return f.lost.Add(uint64(stats.Drops))
}

// nextPacket reads one frame of a packet socket and makes of it what was on the
// wire: checksum complete, VLAN tag in place, merged packets cut up again.
func (f *File) nextPacket(slot int) ([]byte, error) {
	if f.segments.more() {
		return f.segments.next(f.roomFor(slot, f.segments.length())), nil
	}
	room := f.room(slot)
	var (
		header  [virtioHeader]byte
		control [64]byte
	)
	iov := [3]unix.Iovec{vec(header[:]), vec(room), vec(f.spill)}
	msg := unix.Msghdr{Iov: &iov[0], Iovlen: 3, Control: &control[0], Controllen: uint64(len(control))}
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(f.fd), uintptr(unsafe.Pointer(&msg)), 0)
	if errno != 0 {
		return nil, errno
	}
	if n < virtioHeader+ethernetHeader {
		return nil, nil // no frame at all
	}
	offload := parseOffload(header[:])
	frame := f.gather(slot, room, int(n)-virtioHeader)
	if tag, ok := parseTag(control[:msg.Controllen]); ok {
		frame = f.insertTag(slot, len(frame), tag)
		offload.start += len(tag)
	}
	if f.segments.start(frame, offload) {
		return f.segments.next(f.roomFor(slot, f.segments.length())), nil
	}
	offload.complete(frame)
	return frame, nil
}

// roomFor returns n bytes of a slot's memory.
func (f *File) roomFor(slot, n int) []byte {
	if n <= slotRoom {
		return f.room(slot)[:n]
	}
	return f.largeRoom(slot)[headroom:][:n]
}

// insertTag puts a tag behind the addresses of the slot's frame of n bytes.
func (f *File) insertTag(slot, n int, tag [4]byte) []byte {
	memory := f.slots[slot*slotStride:]
	if n > slotRoom {
		memory = f.large[slot]
	}
	frame := memory[:headroom+n]
	copy(frame, frame[headroom:headroom+12])
	copy(frame[12:], tag[:])
	return frame
}

// parseTag finds the VLAN tag in a packet's control messages (struct
// tpacket_auxdata, linux/if_packet.h): TPID and TCI as on the wire.
func parseTag(control []byte) (tag [4]byte, ok bool) {
	const size = int(unsafe.Sizeof(unix.TpacketAuxdata{}))
	for len(control) >= unix.SizeofCmsghdr {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return tag, false
		}
		control = rest
		if header.Level != unix.SOL_PACKET || header.Type != unix.PACKET_AUXDATA || len(data) < size {
			continue
		}
		aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&data[0]))
		if aux.Status&unix.TP_STATUS_VLAN_VALID == 0 {
			return tag, false
		}
		tpid := aux.Vlan_tpid
		if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID == 0 {
			tpid = unix.ETH_P_8021Q
		}
		binary.BigEndian.PutUint16(tag[:], tpid)
		binary.BigEndian.PutUint16(tag[2:], aux.Vlan_tci)
		return tag, true
	}
	return tag, false
}
