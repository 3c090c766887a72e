package port

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Attachment is a device's hold on the ports of a simulation: as long as it is
// open, frames flow through the descriptors.
type Attachment struct {
	Ports []Port
	conn  *net.UnixConn
}

// Attach asks the owner of the ports at a unix socket for them. The endpoints
// are ready to use. One device at a time can be attached.
func Attach(ctx context.Context, path string) (*Attachment, error) {
	conn, err := dial(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("attach to ports at %s: %w", path, err)
	}
	a := &Attachment{conn: conn}
	if err := a.receiveAll(ctx); err != nil {
		a.Close()
		return nil, fmt.Errorf("attach to ports at %s: %w", path, err)
	}
	return a, nil
}

// receiveAll asks for the ports and takes them.
func (a *Attachment) receiveAll(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { a.conn.SetDeadline(time.Unix(0, 1)) })
	defer stop()
	err := send(a.conn, request{Op: opAttach})
	for more := true; more && err == nil; {
		more, err = a.receivePorts()
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil && len(a.Ports) == 0:
		return errors.New("it has no ports")
	}
	return err
}

// receivePorts takes one datagram of ports; more follow if it says so.
func (a *Attachment) receivePorts() (more bool, err error) {
	data, descriptors, err := receive(a.conn)
	if err != nil {
		return false, err
	}
	r, err := decodeReply(data, len(descriptors))
	switch {
	case err != nil:
	case r.Error != "":
		err = errors.New(r.Error)
	case len(r.Ports) == 0 && r.More:
		err = errors.New("reply: no ports in a chunk that is not the last")
	case len(a.Ports)+len(r.Ports) > maxPorts:
		err = fmt.Errorf("reply: more than %d ports", maxPorts)
	}
	if err != nil {
		closeAll(descriptors)
		return false, err
	}
	for i, p := range r.Ports {
		wire, err := NewFile(descriptors[2*i], p.Name+" wire side")
		if err != nil {
			closeAll(descriptors[2*i+1:])
			return false, err
		}
		host, err := NewFile(descriptors[2*i+1], p.Name+" host side")
		if err != nil {
			wire.Close()
			closeAll(descriptors[2*i+2:])
			return false, err
		}
		a.Ports = append(a.Ports, Port{ID: p.ID, Name: p.Name, Wire: wire, Host: host})
	}
	return r.More, nil
}

// Wait blocks until the owner of the ports closes the connection, which is an
// error, or ctx ends, which is none. Then the ports are of no use: the owner is
// gone, and the netdevs live only as long as this process holds them.
func (a *Attachment) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { a.conn.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	_, descriptors, err := receive(a.conn)
	closeAll(descriptors)
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		return errors.New("the owner of the ports sent what nobody asked for")
	case isClosed(err):
		return errors.New("the owner of the ports has closed the connection")
	}
	return fmt.Errorf("connection to the owner of the ports: %w", err)
}

// Close closes the endpoints and lets go of the ports.
func (a *Attachment) Close() error {
	var errs []error
	for _, p := range a.Ports {
		errs = append(errs, p.Wire.Close(), p.Host.Close())
	}
	return errors.Join(append(errs, a.conn.Close())...)
}

// Settle returns when the simulation at a unix socket has brought every carrier
// in line with the other end of its cable, and the kernel has told so.
func Settle(ctx context.Context, path string) error {
	conn, err := dial(ctx, path)
	if err == nil {
		defer conn.Close()
		err = settle(ctx, conn)
	}
	if err != nil {
		return fmt.Errorf("settle ports at %s: %w", path, err)
	}
	return nil
}

func settle(ctx context.Context, conn *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(0, 1)) })
	defer stop()
	if err := send(conn, request{Op: opSettle}); err != nil {
		return err
	}
	data, descriptors, err := receive(conn)
	closeAll(descriptors)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	r, err := decodeReply(data, len(descriptors))
	switch {
	case err != nil:
		return err
	case r.Error != "":
		return errors.New(r.Error)
	case !r.OK:
		return errors.New("reply: neither ok nor error")
	}
	return nil
}

func dial(ctx context.Context, path string) (*net.UnixConn, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}
