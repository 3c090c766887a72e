package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"antiphon/hwmodel"
	"antiphon/hwmodel/port"
)

// netlinkOrder is the byte order of netlink headers: the machine's.
var netlinkOrder = binary.NativeEndian

// end is one side of a port: a TAP, a packet socket on an existing netdev, or
// the packet socket of a cable inside.
type end struct {
	name string // as made
	tap  *port.TAP
	// fd of a packet socket, if there is no TAP.
	fd int
	// far is the end whose IFF_UP is this one's carrier; nil if nothing moves
	// this end's carrier.
	far *end
	// netdev is set for an existing netdev: where it was attached.
	netdev *os.File

	index   int32
	flags   uint32 // IFF_*, as last seen
	up      bool   // as the far end sees it: administratively up (an existing netdev: running)
	gone    bool   // the netdev was deleted
	carrier bool   // as last set
}

// plug is a port as the device gets it.
type plug struct {
	id         hwmodel.PortID
	name       string
	wire, host *end
}

// ends owns both sides of every port: it lends their descriptors to a device
// and keeps each carrier in line with the other end of its cable, wherever its
// owner has moved or renamed the netdev. It implements port.Provider.
type ends struct {
	lobby *lobby

	mu       sync.Mutex
	plugs    []plug
	attached bool
}

// all calls f with every end that has a netdev to watch.
func (e *ends) all(f func(*end) error) error {
	var errs []error
	for _, p := range e.plugs {
		for _, x := range []*end{p.host, p.wire} {
			if x.tap != nil || x.netdev != nil {
				errs = append(errs, f(x))
			}
		}
	}
	return errors.Join(errs...)
}

// Attach implements port.Provider.
func (e *ends) Attach() ([]port.Lent, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.attached = true
	if err := e.all(e.attachQueue); err != nil {
		return nil, errors.Join(err, e.detach())
	}
	lent := make([]port.Lent, len(e.plugs))
	for i, p := range e.plugs {
		lent[i] = port.Lent{ID: p.id, Name: p.name, Wire: p.wire.descriptor(), Host: p.host.descriptor()}
	}
	return lent, nil
}

// attachQueue opens an end for frames. An end whose netdev was deleted gets one
// that leads nowhere: the other ports are not to suffer.
func (e *ends) attachQueue(x *end) error {
	if x.tap == nil || x.tap.Attach() == nil && !x.gone {
		return nil
	}
	if !x.gone {
		if ns, err := x.tap.NetNS(); err == nil {
			ns.Close()
			return fmt.Errorf("%s: cannot attach its queue", x.name)
		}
	}
	nowhere, err := e.lobby.makeTAP()
	if err != nil {
		return fmt.Errorf("%s was deleted; make a replacement: %w", x.name, err)
	}
	x.tap.Close()
	x.tap, x.gone = nowhere, true
	return nil
}

// Detach implements port.Provider.
func (e *ends) Detach() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.detach()
}

func (e *ends) detach() error {
	e.attached = false
	return e.all(func(x *end) error {
		if x.tap == nil || x.gone {
			return nil
		}
		if err := x.tap.Detach(); err != nil && !netdevGone(err) {
			return fmt.Errorf("%s: %w", x.name, err)
		}
		return nil
	})
}

// netdevGone says that a queue's netdev was deleted.
func netdevGone(err error) bool {
	return errors.Is(err, unix.EBADFD) || errors.Is(err, unix.EINVAL)
}

// Settle implements port.Provider. Looking at a link makes the kernel tell of
// its carrier what it has not told yet (rtnl_getlink, linkwatch_sync_dev): the
// second look is for the carriers that the first one set.
func (e *ends) Settle(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.alignAll(); err != nil {
		return err
	}
	return e.all(e.look)
}

// alignAll looks at every end and sets every carrier. With the lock held.
func (e *ends) alignAll() error {
	if err := e.all(e.look); err != nil {
		return err
	}
	return e.all(e.align)
}

// align sets an end's carrier to what the far end says.
func (e *ends) align(x *end) error {
	if x.tap == nil || x.far == nil || x.gone {
		return nil
	}
	want := x.far.up && !x.far.gone
	if want == x.carrier {
		return nil
	}
	if err := x.tap.SetCarrier(want); err != nil {
		if netdevGone(err) {
			x.gone = true
			return nil
		}
		return fmt.Errorf("%s: %w", x.name, err)
	}
	x.carrier = want
	return nil
}

// look finds where an end is now and whether it is up.
func (e *ends) look(x *end) error {
	if x.gone {
		return nil
	}
	// It may move between finding and asking: then once more.
	for {
		state, err := e.find(x)
		switch {
		case err == nil:
			x.index, x.flags, x.up = state.index, state.flags, state.flags&unix.IFF_UP != 0
			if x.netdev != nil {
				x.up = x.up && state.flags&unix.IFF_RUNNING != 0
			}
			return nil
		case errors.Is(err, unix.ENODEV) && x.tap != nil:
		case errors.Is(err, unix.ENODEV) || netdevGone(err):
			x.gone, x.up = true, false
			return nil
		default:
			return fmt.Errorf("%s: %w", x.name, err)
		}
	}
}

// find asks the kernel about an end, in the namespace where it is.
func (e *ends) find(x *end) (linkState, error) {
	ns, name := x.netdev, x.name
	if x.tap != nil {
		var err error
		if name, err = x.tap.Name(); err != nil {
			return linkState{}, err
		}
		if ns, err = x.tap.NetNS(); err != nil {
			return linkState{}, err
		}
		defer ns.Close()
	}
	id := int32(-1)
	if !sameNetns(ns, e.lobby.ns) {
		var err error
		if id, err = e.lobby.nsid(ns); err != nil {
			return linkState{}, err
		}
	}
	return e.lobby.link(id, name)
}

// watch keeps carriers in line until ctx ends.
func (e *ends) watch(ctx context.Context, events *netlink.Conn) error {
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	for {
		messages, err := events.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			if err := e.react(nil); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("link notifications: %w", err)
		default:
			if err := e.react(messages); err != nil {
				return err
			}
		}
	}
}

// react looks at the ends that a notification could be about (indexes of
// different namespaces may be equal), or at all if notifications were lost. One
// that says what is known already is passed over: to look at an end whose queue
// is detached makes the kernel notify, and that must not go on for ever.
func (e *ends) react(messages []netlink.Message) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if messages == nil {
		return e.alignAll()
	}
	err := e.all(func(x *end) error {
		news := slices.ContainsFunc(messages, func(m netlink.Message) bool {
			index, flags, ok := parseLink(m)
			return ok && index == x.index && (m.Header.Type == unix.RTM_DELLINK || flags != x.flags)
		})
		if !news {
			return nil
		}
		return e.look(x)
	})
	return errors.Join(err, e.all(e.align))
}

func (x *end) descriptor() int {
	if x.tap != nil {
		return x.tap.FD()
	}
	return x.fd
}

// Close lets go of every descriptor: with the last one a TAP disappears.
func (e *ends) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, p := range e.plugs {
		for _, x := range []*end{p.host, p.wire} {
			switch {
			case x == nil:
			case x.tap != nil:
				errs = append(errs, x.tap.Close())
			default:
				errs = append(errs, unix.Close(x.fd))
			}
			if x != nil && x.netdev != nil {
				errs = append(errs, x.netdev.Close())
			}
		}
	}
	e.plugs = nil
	return errors.Join(errs...)
}
