package port

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"antiphon/hwmodel"
)

// Provider owns ports and lends them to a device.
type Provider interface {
	// Attach lets frames flow and returns every port's descriptors, which stay
	// the provider's. It is called for one device at a time.
	Attach() ([]Lent, error)
	// Detach ends what Attach began: the device is gone, dead or alive.
	Detach() error
	// Settle brings carriers in line with the other ends and waits until the
	// kernel has told so.
	Settle(ctx context.Context) error
}

// Lent is a port for a device: descriptors of a TAP queue or packet socket.
type Lent struct {
	ID         hwmodel.PortID
	Name       string
	Wire, Host int
}

// settleTime bounds one Settle: carriers take microseconds, the kernel's link
// watch at most a second.
const settleTime = 10 * time.Second

// handover is how long a device waits for the detachment of one that has just
// died: its connection is closed, but perhaps not yet seen to be.
const handover = time.Second

// Serve answers devices and other clients at a listener ("unixpacket") until
// ctx ends; it closes the listener. When it returns no device is attached.
func Serve(ctx context.Context, listener *net.UnixListener, provider Provider) error {
	s := &server{provider: provider, device: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(ctx)
	defer s.clients.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("serve ports: %w", err)
		}
		s.clients.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(0, 1)) })
			defer stop()
			s.serve(ctx, conn)
		})
	}
}

type server struct {
	provider Provider
	clients  sync.WaitGroup
	device   chan struct{} // full while a device is attached
}

// serve answers one client. A client that went away is not our error.
func (s *server) serve(ctx context.Context, conn *net.UnixConn) {
	data, descriptors, err := receive(conn)
	closeAll(descriptors)
	if err != nil {
		return
	}
	r, err := decodeRequest(data)
	switch {
	case err != nil:
	case r.Op == opSettle:
		ctx, cancel := context.WithTimeout(ctx, settleTime)
		defer cancel()
		if err = s.provider.Settle(ctx); err == nil {
			_ = send(conn, reply{OK: true})
		}
	case r.Op == opAttach:
		err = s.attach(ctx, conn)
	}
	if err != nil {
		_ = send(conn, reply{Error: err.Error()})
	}
}

// attach lends the ports until the connection closes. The error is for the client.
func (s *server) attach(ctx context.Context, conn *net.UnixConn) (err error) {
	select {
	case s.device <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(handover):
		return errors.New("a device is attached already")
	}
	defer func() { <-s.device }()
	ports, err := s.provider.Attach()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.provider.Detach()) }()
	if err := lend(conn, ports); err != nil {
		return err
	}
	// A device has nothing more to say: this returns when it is gone.
	_, descriptors, _ := receive(conn)
	closeAll(descriptors)
	return nil
}

// lend sends the ports in chunks.
func lend(conn *net.UnixConn, ports []Lent) error {
	for {
		chunk := ports[:min(len(ports), portsPerMessage)]
		ports = ports[len(chunk):]
		r := reply{More: len(ports) > 0}
		var descriptors []int
		for _, p := range chunk {
			r.Ports = append(r.Ports, replyPort{ID: p.ID, Name: p.Name})
			descriptors = append(descriptors, p.Wire, p.Host)
		}
		if err := send(conn, r, descriptors...); err != nil {
			return err
		}
		if !r.More {
			return nil
		}
	}
}
