package port

import (
	"errors"

	"antiphon/hwmodel"
)

// MaxFrame bounds a received frame in bytes from destination MAC on, without
// FCS: the largest IP packet (65535) with room for Ethernet and tags.
const MaxFrame = 65535 + 64

// ErrGone says that what an endpoint was bound to does not exist any more, for
// example because the TAP was deleted or its queue detached.
var ErrGone = errors.New("endpoint gone")

// Endpoint is one side of a port: Ethernet frames from destination MAC on,
// without FCS, checksums complete, VLAN tags in the frame.
type Endpoint interface {
	// Receive waits until there is a frame, fills frames (at most
	// hwmodel.VectorSize of them) with what is there, and returns how many. The
	// memory is the endpoint's and valid until the next Receive; the caller may
	// write to it. One caller at a time. An error is ErrGone (for ever), or
	// os.ErrDeadlineExceeded after Interrupt, or passing.
	Receive(frames [][]byte) (int, error)
	// Send sends one frame or fails at once; it never waits for room. Safe for
	// concurrent use.
	Send(frame []byte) error
	// Interrupt makes this and every later Receive return os.ErrDeadlineExceeded.
	Interrupt() error
	// Close frees the endpoint. Call it when no Receive or Send is under way.
	Close() error
}

// Port is a device port with both its sides.
type Port struct {
	ID   hwmodel.PortID
	Name string
	Wire Endpoint
	Host Endpoint
}

// Infos returns what a device declares about the ports.
func Infos(ports []Port) []hwmodel.PortInfo {
	infos := make([]hwmodel.PortInfo, len(ports))
	for i, p := range ports {
		infos[i] = hwmodel.PortInfo{ID: p.ID, Name: p.Name}
	}
	return infos
}
