package port

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"antiphon/hwmodel"
)

// The protocol between whoever owns the ports' descriptors (the simulation) and
// its clients: a unix SEQPACKET socket, one JSON document a datagram, one
// request a connection.
//
//	{"op":"attach"}  → {"ports":[{"id":1,"name":"swp1"},…],"more":true} …
//	                   with two descriptors for each port, wire side first; the
//	                   last datagram has no "more". The client then holds the
//	                   connection: when it closes, the queues are detached.
//	{"op":"settle"}  → {"ok":true} when carriers are in line and flushed
//	                 → {"error":"…"} instead of either
const (
	opAttach = "attach"
	opSettle = "settle"
	// portsPerMessage keeps the descriptors of a message well below the
	// kernel's SCM_MAX_FD of 253.
	portsPerMessage = 50
	// maxMessage bounds a datagram: 50 ports with long names are 5 kB.
	maxMessage = 64 << 10
	// maxPorts bounds what a client accepts.
	maxPorts = 4096
)

type request struct {
	Op string `json:"op"`
}

type reply struct {
	OK    bool        `json:"ok,omitempty"`
	Error string      `json:"error,omitempty"`
	Ports []replyPort `json:"ports,omitempty"`
	More  bool        `json:"more,omitempty"`
}

type replyPort struct {
	ID   hwmodel.PortID `json:"id"`
	Name string         `json:"name"`
}

// decodeRequest reads a client's datagram.
func decodeRequest(data []byte) (request, error) {
	var r request
	if err := decodeStrict(data, &r); err != nil {
		return request{}, fmt.Errorf("request: %w", err)
	}
	if r.Op != opAttach && r.Op != opSettle {
		return request{}, fmt.Errorf("request: op %q is neither %q nor %q", r.Op, opAttach, opSettle)
	}
	return r, nil
}

// decodeReply reads a server's datagram that came with a number of descriptors.
func decodeReply(data []byte, descriptors int) (reply, error) {
	var r reply
	if err := decodeStrict(data, &r); err != nil {
		return reply{}, fmt.Errorf("reply: %w", err)
	}
	if descriptors != 2*len(r.Ports) {
		return reply{}, fmt.Errorf("reply: %d descriptors for %d ports, expected two each", descriptors, len(r.Ports))
	}
	for i, p := range r.Ports {
		if p.ID == 0 || p.Name == "" {
			return reply{}, fmt.Errorf("reply: ports[%d] has id %d and name %q, expected neither 0 nor empty", i, p.ID, p.Name)
		}
	}
	return r, nil
}

// decodeStrict reads exactly one JSON document without unknown fields.
func decodeStrict(data []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("more than one JSON document, at offset %d", d.InputOffset())
	}
	return nil
}

// send writes one datagram with descriptors.
func send(conn *net.UnixConn, message any, descriptors ...int) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	var rights []byte
	if len(descriptors) > 0 {
		rights = unix.UnixRights(descriptors...)
	}
	_, _, err = conn.WriteMsgUnix(data, rights, nil)
	return err
}

// receive reads one datagram and its descriptors, which are the caller's. The
// end of the connection is io.EOF.
func receive(conn *net.UnixConn) (data []byte, descriptors []int, err error) {
	data = make([]byte, maxMessage)
	control := make([]byte, unix.CmsgSpace(2*portsPerMessage*4))
	n, controls, flags, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		return nil, nil, err
	}
	if n == 0 && controls == 0 {
		return nil, nil, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(control[:controls])
	if err != nil {
		return nil, nil, fmt.Errorf("control message: %w", err)
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			descriptors = append(descriptors, fds...)
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(descriptors)
		return nil, nil, errors.New("message is longer than the protocol allows")
	}
	return data[:n], descriptors, nil
}

func closeAll(descriptors []int) {
	for _, fd := range descriptors {
		unix.Close(fd)
	}
}

// isClosed says that an error is the ordinary end of a connection.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ECONNRESET)
}
