package port

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"antiphon/hwmodel"
)

// Switch is the loop of a software device: frames from each port's wire side go
// through the pipe and out again, frames from its host side go straight to its
// wire side. Frames of one port keep their order.
type Switch struct {
	pipe  hwmodel.Pipe
	board *Board
	rates Policing
	ports map[hwmodel.PortID]*switchPort
	log   zerolog.Logger
}

// switchPort is a port with its row of the board.
type switchPort struct {
	Port
	*row
}

// NewSwitch returns a switch over ports that all have a row on the board, of which
// each traps what rates let through. It starts nothing. The endpoints stay the caller's, who closes them after Run.
func NewSwitch(pipe hwmodel.Pipe, ports []Port, board *Board, rates Policing, log zerolog.Logger) (*Switch, error) {
	s := &Switch{pipe: pipe, board: board, rates: rates, ports: make(map[hwmodel.PortID]*switchPort, len(ports)), log: log}
	for _, p := range ports {
		counts := board.rows[p.ID]
		if counts == nil {
			return nil, fmt.Errorf("port %d (%s) has no row on the board", p.ID, p.Name)
		}
		s.ports[p.ID] = &switchPort{p, counts}
	}
	return s, nil
}

// Run moves frames until ctx ends, with one goroutine for each endpoint. A port
// that fails is logged and left alone; the others go on.
func (s *Switch) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	for _, p := range s.ports {
		loops.Go(func() { s.fromWire(p) })
		loops.Go(func() { s.fromHost(p) })
	}
	<-ctx.Done()
	for _, p := range s.ports {
		// An endpoint that cannot be interrupted is one that is closed.
		_ = p.Wire.Interrupt()
		_ = p.Host.Interrupt()
	}
	loops.Wait()
	return nil
}

// fromWire takes frames from the wire side through the pipe.
func (s *Switch) fromWire(p *switchPort) {
	v := new(hwmodel.Vector)
	var length [hwmodel.VectorSize]int // as received: Run may shorten frames
	police := newPolicer(&s.rates)
	losses := losses{log: s.log, port: p}
	for {
		n, ok := s.receive(p, p.Wire, "wire", v.Frame[:])
		if !ok {
			losses.look(1)
			return
		}
		if n == len(v.Frame) { // as after every loss: the queue was full
			losses.look(2)
		}
		v.N = n
		for i := range n {
			v.In[i] = p.ID
			length[i] = len(v.Frame[i])
		}
		s.pipe.Run(v)
		var now time.Duration // read when something traps
		for i := range n {
			switch v.Verdict[i] {
			case hwmodel.Forward:
				s.forward(p, v.Out[i], v.Frame[i], length[i])
			case hwmodel.Drop:
				p.dropped[v.Reason[i]].add(length[i])
			default:
				if now == 0 {
					now = police.now()
				}
				if police.buckets[v.Reason[i]].passes(now) {
					s.trap(p, v.Reason[i], v.Frame[i])
				} else {
					p.dropped[hwmodel.ReasonPoliced].add(length[i])
				}
			}
		}
	}
}

// losses says what the queue in front of a port's wire side lost. That is in no
// counter: the device has not seen those frames, and knows neither how many each
// packet was nor how long.
type losses struct {
	log  zerolog.Logger
	port *switchPort
	said uint64
}

// look warns of losses that are more than was said, and at least factor times
// that: under a steady overload now and then is enough.
func (l *losses) look(factor uint64) {
	file, ok := l.port.Wire.(*File)
	if !ok {
		return
	}
	if lost := file.Lost(); lost > l.said && lost >= factor*l.said {
		l.log.Warn().Str("port", l.port.Name).Uint64("packets", lost).Msg("lost so far before the device: more came than it takes")
		l.said = lost
	}
}

// forward sends a frame that was received with the given length out of a port.
func (s *Switch) forward(in *switchPort, out hwmodel.PortID, frame []byte, received int) {
	egress := s.ports[out]
	if egress == nil || egress.Wire.Send(frame) != nil {
		in.dropped[hwmodel.ReasonTxFailed].add(received)
		return
	}
	egress.tx.add(len(frame))
	in.forwarded.add(received)
}

// trap hands a frame to the host through the port it came in by.
func (s *Switch) trap(in *switchPort, reason hwmodel.Reason, frame []byte) {
	if in.Host.Send(frame) != nil {
		in.dropped[hwmodel.ReasonTrapUndeliverable].add(len(frame))
		return
	}
	in.trapped[reason].add(len(frame))
}

// fromHost sends what the host sends out of the port. A frame that the wire
// refuses was never received by the device, so it is counted nowhere.
func (s *Switch) fromHost(p *switchPort) {
	var frames [hwmodel.VectorSize][]byte
	for {
		n, ok := s.receive(p, p.Host, "host", frames[:])
		if !ok {
			return
		}
		for _, frame := range frames[:n] {
			if p.Wire.Send(frame) != nil {
				continue
			}
			p.injected.add(len(frame))
			p.tx.add(len(frame))
		}
	}
}

// receive reads from an endpoint until there are frames; false ends the loop of
// that endpoint.
func (s *Switch) receive(p *switchPort, e Endpoint, side string, frames [][]byte) (int, bool) {
	for {
		n, err := e.Receive(frames)
		switch {
		case err == nil && n > 0:
			return n, true
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			return 0, false
		case errors.Is(err, unix.ENETDOWN):
			// Said once by a packet socket whose netdev goes down; frames
			// come again when it is up.
			s.log.Debug().Str("port", p.Name).Str("side", side).Msg("netdev is down")
		default:
			s.log.Warn().Str("port", p.Name).Str("side", side).Err(err).Msg("endpoint stops")
			return 0, false
		}
	}
}
