package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// Limits of a capture file, each with its reason.
const (
	// maxTraced is the longest frame that a question can carry.
	maxTraced = 48 << 10
	// maxRecord bounds a record: libpcap's longest packet with room for options.
	maxRecord = 1 << 20
)

// Record formats: the pcap file format (draft-ietf-opsawg-pcap) and pcapng
// (draft-ietf-opsawg-pcapng).
const (
	pcapHeader  = 24
	pcapRecord  = 16
	pcapMicro   = 0xa1b2c3d4
	pcapNano    = 0xa1b23c4d
	gzipMagic   = 0x8b1f
	ngHeader    = 8
	ngTrailer   = 4
	ngByteOrder = 0x1a2b3c4d

	ngSection    = 0x0a0d0d0a
	ngInterface  = 1
	ngPacket     = 2 // obsolete
	ngSimple     = 3
	ngStatistics = 5
	ngEnhanced   = 6
)

// captured is one packet of a capture.
type captured struct {
	number int    // from 1
	port   string // where it came in
	frame  []byte
}

// packets is what pcapgo's readers have in common.
type packets interface {
	ReadPacketData() ([]byte, gopacket.CaptureInfo, error)
}

// capture reads packets from a pcap or pcapng file.
type capture struct {
	framer *framer
	reader packets
	ng     *pcapgo.NgReader // nil for a classic file
	port   string           // for interfaces without a name
	number int
}

// openCapture begins to read a capture. port is where packets came in whose
// interface the file does not name; it may be empty for pcapng.
func openCapture(from io.Reader, port string) (*capture, error) {
	c := &capture{framer: &framer{from: from}, port: port}
	if err := c.guarded(c.open); err != nil {
		return nil, c.says(err)
	}
	return c, nil
}

func (c *capture) open() error {
	if err := c.framer.begin(); err != nil {
		return err
	}
	if c.framer.ng {
		ng, err := pcapgo.NewNgReader(c.framer, pcapgo.NgReaderOptions{WantMixedLinkType: true})
		c.reader, c.ng = ng, ng
		return err
	}
	classic, err := pcapgo.NewReader(c.framer)
	if err != nil {
		return err
	}
	c.reader = classic
	if c.port == "" {
		return usage("a pcap file does not say where its packets came in: give --in-port")
	}
	return ethernet(classic.LinkType())
}

// next returns the next packet; io.EOF ends the capture.
func (c *capture) next() (p captured, err error) {
	c.number++
	err = c.guarded(func() error {
		data, info, err := c.reader.ReadPacketData()
		if err != nil {
			return err
		}
		p = captured{number: c.number, port: c.port, frame: data}
		switch {
		case info.CaptureLength < info.Length:
			return fmt.Errorf("only %d of %d bytes were captured: capture whole packets (tcpdump -s 0)", info.CaptureLength, info.Length)
		case len(data) > maxTraced:
			return fmt.Errorf("a frame of %d bytes, at most %d can be traced", len(data), maxTraced)
		case c.ng == nil:
			return nil
		}
		return c.interfaceOf(&p, info.InterfaceIndex)
	})
	if errors.Is(err, io.EOF) && c.framer.ended && c.framer.packets == c.number-1 {
		return p, io.EOF
	}
	return p, c.says(err)
}

// interfaceOf finds out where a packet of pcapng came in.
func (c *capture) interfaceOf(p *captured, index int) error {
	i, err := c.ng.Interface(index)
	if err != nil {
		return err
	}
	if i.Name != "" && c.port == "" {
		p.port = i.Name
	}
	if p.port == "" {
		return usage("interface %d of the capture has no name: give --in-port", index)
	}
	return ethernet(i.LinkType)
}

func ethernet(l layers.LinkType) error {
	if l != layers.LinkTypeEthernet {
		return fmt.Errorf("link type %d, want %d (Ethernet)", uint32(l), uint32(layers.LinkTypeEthernet))
	}
	return nil
}

// guarded calls into pcapgo, for whose panics on hostile files this stands.
func (c *capture) guarded(f func() error) (err error) {
	defer func() {
		if e := recover(); e != nil {
			err = fmt.Errorf("the reader panicked: %v", e)
		}
	}()
	return f()
}

// says tells where in the file an error is.
func (c *capture) says(err error) error {
	var wrong *exitError
	if err == nil || errors.As(err, &wrong) {
		return err // of the command line
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the file ends too soon: %w", err)
	}
	if c.number == 0 {
		return fmt.Errorf("capture, offset %d: %w", c.framer.start, err)
	}
	return fmt.Errorf("capture, packet %d at offset %d: %w", c.number, c.framer.start, err)
}

// framer hands a capture file to pcapgo record by record, each checked as a whole,
// so that a length that lies costs no memory and every error has its place. pcapgo
// asks for more only when it has used up what it has.
type framer struct {
	from  io.Reader
	ng    bool
	order binary.ByteOrder
	rest  []byte // of the record at hand
	buf   []byte
	start int64 // where that record begins in the file
	next  int64
	ended bool // after a whole record
	// packets is how many packet records have been read.
	packets int
}

// Read implements io.Reader.
func (f *framer) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		if err := f.record(); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// begin reads the first record and learns from it what the file is.
func (f *framer) begin() error {
	if err := f.take(ngHeader); err != nil {
		return err
	}
	magic := binary.LittleEndian.Uint32(f.buf)
	if magic == ngSection {
		f.ng = true
		return f.block()
	}
	switch {
	case magic == pcapMicro || magic == pcapNano:
		f.order = binary.LittleEndian
	case binary.BigEndian.Uint32(f.buf) == pcapMicro || binary.BigEndian.Uint32(f.buf) == pcapNano:
		f.order = binary.BigEndian
	case magic&0xffff == gzipMagic:
		return errors.New("the file is compressed: gunzip it first")
	default:
		return fmt.Errorf("%#08x is the beginning of neither pcap nor pcapng", magic)
	}
	err := f.take(pcapHeader)
	f.rest = f.buf
	return err
}

// record reads the next record.
func (f *framer) record() error {
	f.start, f.buf = f.next, f.buf[:0]
	head := pcapRecord
	if f.ng {
		head = ngHeader
	}
	if err := f.take(head); err != nil {
		f.ended = len(f.buf) == 0 && errors.Is(err, io.EOF)
		return err
	}
	if f.ng {
		return f.block()
	}
	length := f.order.Uint32(f.buf[8:])
	if length > maxRecord {
		return fmt.Errorf("a captured length of %d bytes, at most %d are read", length, maxRecord)
	}
	f.packets++
	err := f.take(pcapRecord + int(length))
	f.rest = f.buf
	return err
}

// block reads the rest of a pcapng block whose header is there.
func (f *framer) block() error {
	if binary.LittleEndian.Uint32(f.buf) == ngSection {
		// The length is in the byte order that stands behind it.
		if err := f.take(ngHeader + 4); err != nil {
			return err
		}
		switch uint32(ngByteOrder) {
		case binary.LittleEndian.Uint32(f.buf[8:]):
			f.order = binary.LittleEndian
		case binary.BigEndian.Uint32(f.buf[8:]):
			f.order = binary.BigEndian
		default:
			return fmt.Errorf("section header: byte order magic %x, want %x in either order", f.buf[8:12], ngByteOrder)
		}
	}
	kind, length := f.order.Uint32(f.buf), f.order.Uint32(f.buf[4:])
	least := leastBlock(kind)
	switch {
	case length > maxRecord:
		return fmt.Errorf("block of type %d: length %d, at most %d are read", kind, length, maxRecord)
	case length < least || length%4 != 0:
		return fmt.Errorf("block of type %d: length %d, want a multiple of 4 from %d", kind, length, least)
	}
	if err := f.take(int(length)); err != nil {
		return err
	}
	if again := f.order.Uint32(f.buf[length-ngTrailer:]); again != length {
		return fmt.Errorf("block of type %d: length %d at its beginning, %d at its end", kind, length, again)
	}
	if at := map[uint32]int{ngEnhanced: 20, ngPacket: 20, ngSimple: 8}[kind]; at > 0 {
		f.packets++
		if captured, room := f.order.Uint32(f.buf[at:]), length-least; captured > room {
			return fmt.Errorf("block of type %d: a packet of %d bytes, there are %d", kind, captured, room)
		}
	}
	f.rest = f.buf
	return nil
}

// leastBlock is the length of a block without options and packet data.
func leastBlock(kind uint32) uint32 {
	const frame = ngHeader + ngTrailer
	switch kind {
	case ngSection:
		return frame + 16
	case ngInterface:
		return frame + 8
	case ngEnhanced, ngPacket:
		return frame + 20
	case ngSimple:
		return frame + 4
	case ngStatistics:
		return frame + 12
	}
	return frame
}

// take makes buf that long with what the file has next.
func (f *framer) take(length int) error {
	have := len(f.buf)
	if length > cap(f.buf) {
		f.buf = append(make([]byte, 0, length), f.buf...)
	}
	f.buf = f.buf[:length]
	n, err := io.ReadFull(f.from, f.buf[have:])
	f.next += int64(n)
	f.buf = f.buf[:have+n]
	if err != nil && have+n > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}
