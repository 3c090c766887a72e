package port

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"antiphon/hwmodel"
)

// The counters file, in the byte order of the machine that owns it:
//
//	0   8  magic "ANTCOUNT"
//	8   4  version
//	12  4  number of ports P
//	16  4  number of reasons R
//	20  4  zero
//	24     P × {u16 port id, 30 bytes name padded with zero}
//	…      zero up to a multiple of 64
//	…      P × row, each padded to a multiple of 64
//
// A row is {tx, forwarded, injected, copied} and then R of dropped and R of
// trapped, each {u64 packets, u64 bytes}.
const (
	boardMagic   = "ANTCOUNT"
	boardVersion = 1
	boardHeader  = 24
	boardLabel   = 32
	boardName    = boardLabel - 2
)

// cell is one cumulative pair of counts.
type cell struct{ packets, bytes atomic.Uint64 }

func (c *cell) add(length int) {
	c.bytes.Add(uint64(length))
	c.packets.Add(1)
}

func (c *cell) load() hwmodel.PacketsBytes {
	return hwmodel.PacketsBytes{Packets: c.packets.Load(), Bytes: c.bytes.Load()}
}

// row holds a port's counts. A received frame is counted in exactly one cell of
// forwarded, dropped or trapped, once its fate is known, so RX is their sum and
// no kill in between can make them disagree.
type row struct {
	tx, forwarded, injected, copied cell
	dropped, trapped                [hwmodel.ReasonCount]cell
}

// rowStride keeps rows of different ports on different cache lines.
const rowStride = (int(unsafe.Sizeof(row{})) + 63) &^ 63

// Board is the page of port counters. It lives in a file that is mapped, so that
// the counts survive the death of the process in any form and never go back.
type Board struct {
	file  *os.File // holds the lock; nil if not in a file
	mem   []byte
	ports []hwmodel.PortInfo
	rows  map[hwmodel.PortID]*row
}

// NewBoard returns counters in memory only.
func NewBoard(ports []hwmodel.PortInfo) (*Board, error) {
	image, err := boardImage(ports)
	if err != nil {
		return nil, err
	}
	// Words, so that the cells are aligned.
	words := make([]uint64, len(image)/8)
	mem := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(image))
	copy(mem, image)
	return newBoard(nil, mem, ports), nil
}

// OpenBoard maps the counters file, which it makes if there is none. A file that
// is locked by another process, truncated, of another kind, version or set of
// ports is an error and is left as it is.
func OpenBoard(path string, ports []hwmodel.PortInfo) (*Board, error) {
	image, err := boardImage(ports)
	if err != nil {
		return nil, err
	}
	if err := createBoard(path, image); err != nil {
		return nil, fmt.Errorf("create counters file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open counters file: %w", err)
	}
	mem, err := mapBoard(f, image)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("counters file %s: %w", path, err)
	}
	return newBoard(f, mem, ports), nil
}

// createBoard makes the file whole or not at all. One that exists is kept.
func createBoard(path string, image []byte) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(image)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// mapBoard locks, checks and maps a counters file.
func mapBoard(f *os.File, image []byte) ([]byte, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var mem []byte
	var opErr error
	err = conn.Control(func(fd uintptr) {
		if opErr = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB); opErr != nil {
			opErr = fmt.Errorf("in use by another process: %w", opErr)
			return
		}
		if opErr = checkBoard(f, image); opErr != nil {
			return
		}
		if mem, opErr = unix.Mmap(int(fd), 0, len(image), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); opErr != nil {
			opErr = fmt.Errorf("map: %w", opErr)
		}
	})
	return mem, errors.Join(err, opErr)
}

// checkBoard compares a file with the image a new one would have.
func checkBoard(f *os.File, image []byte) error {
	head := make([]byte, boardHeader)
	if n, err := f.ReadAt(head, 0); n < len(head) {
		return fmt.Errorf("truncated: %d bytes, the header has %d (%w)", n, len(head), err)
	}
	if string(head[:8]) != boardMagic {
		return fmt.Errorf("not a counters file: it starts with %q, expected %q", head[:8], boardMagic)
	}
	order := binary.NativeEndian
	for _, field := range []struct {
		at   int
		name string
	}{{8, "version"}, {12, "number of ports"}, {16, "number of reasons"}, {20, "reserved word"}} {
		if have, want := order.Uint32(head[field.at:]), order.Uint32(image[field.at:]); have != want {
			return fmt.Errorf("%s is %d, this device has %d", field.name, have, want)
		}
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != int64(len(image)) {
		return fmt.Errorf("truncated or grown: %d bytes, expected %d", st.Size(), len(image))
	}
	ports := int(order.Uint32(image[12:]))
	labels := make([]byte, ports*boardLabel)
	if _, err := f.ReadAt(labels, boardHeader); err != nil {
		return err
	}
	for i := range ports {
		have, want := labels[i*boardLabel:][:boardLabel], image[boardHeader+i*boardLabel:][:boardLabel]
		if string(have) != string(want) {
			return fmt.Errorf("port %d of the file is %s, of this device %s", i+1, labelText(have), labelText(want))
		}
	}
	return nil
}

func labelText(label []byte) string {
	name := label[2:]
	for len(name) > 0 && name[len(name)-1] == 0 {
		name = name[:len(name)-1]
	}
	return fmt.Sprintf("%q (id %d)", name, binary.NativeEndian.Uint16(label))
}

// boardImage returns the bytes of a fresh counters file.
func boardImage(ports []hwmodel.PortInfo) ([]byte, error) {
	image := make([]byte, rowsOffset(len(ports))+len(ports)*rowStride)
	order := binary.NativeEndian
	copy(image, boardMagic)
	order.PutUint32(image[8:], boardVersion)
	order.PutUint32(image[12:], uint32(len(ports)))
	order.PutUint32(image[16:], uint32(hwmodel.ReasonCount))
	seen := map[hwmodel.PortID]bool{}
	for i, p := range ports {
		switch {
		case p.ID == 0:
			return nil, fmt.Errorf("port %q has id 0", p.Name)
		case seen[p.ID]:
			return nil, fmt.Errorf("two ports have id %d", p.ID)
		case len(p.Name) > boardName:
			return nil, fmt.Errorf("port name %q is longer than %d bytes", p.Name, boardName)
		}
		seen[p.ID] = true
		label := image[boardHeader+i*boardLabel:]
		order.PutUint16(label, uint16(p.ID))
		copy(label[2:boardLabel], p.Name)
	}
	return image, nil
}

func rowsOffset(ports int) int { return (boardHeader + ports*boardLabel + 63) &^ 63 }

func newBoard(f *os.File, mem []byte, ports []hwmodel.PortInfo) *Board {
	b := &Board{file: f, mem: mem, ports: ports, rows: make(map[hwmodel.PortID]*row, len(ports))}
	for i, p := range ports {
		b.rows[p.ID] = (*row)(unsafe.Pointer(&mem[rowsOffset(len(ports))+i*rowStride]))
	}
	return b
}

// Counters returns every port's counts, in the order of the ports.
func (b *Board) Counters() []hwmodel.PortCounters {
	out := make([]hwmodel.PortCounters, len(b.ports))
	for i, p := range b.ports {
		r, c := b.rows[p.ID], &out[i]
		c.Port = p.ID
		c.TX, c.Forwarded, c.Injected, c.Copied = r.tx.load(), r.forwarded.load(), r.injected.load(), r.copied.load()
		c.RX = c.Forwarded
		for reason := range hwmodel.ReasonCount {
			c.Dropped[reason], c.TrappedBy[reason] = r.dropped[reason].load(), r.trapped[reason].load()
			sum(&c.Trapped, c.TrappedBy[reason])
			sum(&c.RX, c.Dropped[reason])
		}
		sum(&c.RX, c.Trapped)
	}
	return out
}

func sum(to *hwmodel.PacketsBytes, by hwmodel.PacketsBytes) {
	to.Packets += by.Packets
	to.Bytes += by.Bytes
}

// Close unmaps the page. Nothing may count afterwards.
func (b *Board) Close() error {
	if b.file == nil {
		return nil
	}
	b.rows = nil
	return errors.Join(unix.Munmap(b.mem), b.file.Close())
}
