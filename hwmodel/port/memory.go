package port

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"antiphon/hwmodel"
)

// errFull is what a memory endpoint answers when its peer does not read.
var errFull = errors.New("queue is full")

// memoryQueue is the most frames that wait in one direction of a memory pair;
// four vectors, so that a test may fill some before the reader runs.
const memoryQueue = 4 * hwmodel.VectorSize

// Memory is an endpoint without a kernel: what one of a pair sends, the other
// receives. It is for tests and replay.
type Memory struct {
	in, out     chan []byte
	interrupted chan struct{}
	once        sync.Once
}

// Pair returns two memory endpoints joined by a cable.
func Pair() (*Memory, *Memory) {
	ab, ba := make(chan []byte, memoryQueue), make(chan []byte, memoryQueue)
	a := &Memory{in: ba, out: ab, interrupted: make(chan struct{})}
	b := &Memory{in: ab, out: ba, interrupted: make(chan struct{})}
	return a, b
}

// Receive implements Endpoint.
func (m *Memory) Receive(frames [][]byte) (int, error) {
	select {
	case <-m.interrupted:
		return 0, os.ErrDeadlineExceeded
	default:
	}
	select {
	case <-m.interrupted:
		return 0, os.ErrDeadlineExceeded
	case frames[0] = <-m.in:
	}
	n := 1
	for n < min(len(frames), hwmodel.VectorSize) {
		select {
		case frames[n] = <-m.in:
			n++
		default:
			return n, nil
		}
	}
	return n, nil
}

// Send implements Endpoint; the frame is copied.
func (m *Memory) Send(frame []byte) error {
	if len(frame) > MaxFrame {
		return fmt.Errorf("frame of %d bytes is longer than %d", len(frame), MaxFrame)
	}
	select {
	case m.out <- slices.Clone(frame):
		return nil
	default:
		return errFull
	}
}

// Interrupt implements Endpoint.
func (m *Memory) Interrupt() error {
	m.once.Do(func() { close(m.interrupted) })
	return nil
}

// Close implements Endpoint.
func (m *Memory) Close() error { return m.Interrupt() }
