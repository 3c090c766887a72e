package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"antiphon/hwmodel"
	"antiphon/hwmodel/port"
	"antiphon/netstate"
	"antiphon/transport"
)

// readyTime is how long the daemons may take to find each other and program
// the first snapshot.
const readyTime = 60 * time.Second

// Up makes a simulation and holds it until ctx ends; then everything is taken
// away again. ready is called once, when the first snapshot is programmed. On
// an error nothing stays behind.
func Up(ctx context.Context, cfg Config, log zerolog.Logger, ready func()) (err error) {
	if err := cfg.Check(); err != nil {
		return err
	}
	s := &simulation{Record: Record{Config: cfg, PID: os.Getpid()}, log: log}
	if s.StartTime, err = startTimeOf(s.PID); err != nil {
		return err
	}
	if err := s.claimState(); err != nil {
		return err
	}
	// Daemons first: they hold descriptors of the ports.
	defer func() {
		down := s.stopDaemons()
		if down == nil {
			s.reapers.Wait()
		}
		if s.ends != nil {
			down = errors.Join(down, s.ends.Close(), s.lobby.Close())
		}
		if home, openErr := os.Open("/proc/self/ns/net"); openErr == nil {
			down = errors.Join(down, s.undo(home))
			home.Close()
		}
		if down != nil {
			err = errors.Join(err, fmt.Errorf("take the simulation down: %w", down))
		}
	}()
	return s.run(ctx, ready)
}

// simulation is a Record and what only lives with this process.
type simulation struct {
	Record
	log   zerolog.Logger
	lobby *lobby
	ends  *ends
	// reapers wait for the daemons that this process started.
	reapers sync.WaitGroup
}

// claimState makes the state directory ours.
func (s *simulation) claimState() error {
	if _, err := os.Stat(s.State); errors.Is(err, os.ErrNotExist) {
		s.MadeState = true
	}
	if err := os.MkdirAll(s.State, 0o755); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	err := s.claim()
	if err == nil {
		return writeFile(s.file("sim.pid"), fmt.Appendf(nil, "%d\n", s.PID))
	}
	if s.MadeState {
		os.Remove(s.State)
	}
	if !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("claim state directory: %w", err)
	}
	other, err := Load(s.State)
	if err != nil {
		return usage("a simulation is in %s already: %w", s.State, err)
	}
	if p, err := other.simProcess(); err == nil && p != nil {
		defer p.close()
		return usage("a simulation is up in %s (process %d); use another --state, or antiphon sim down", s.State, p.pid)
	}
	return usage("in %s is what a simulation left that died; clear it with antiphon sim down", s.State)
}

func (s *simulation) run(ctx context.Context, ready func()) error {
	if err := s.prepare(); err != nil {
		return err
	}
	events, err := s.lobby.listen()
	if err != nil {
		return err
	}
	defer events.Close()
	if err := s.ends.Settle(ctx); err != nil {
		return err
	}
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: s.file("sim.sock"), Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	// The ports are served until the daemons are gone, whatever ends ctx.
	group, serving := errgroup.WithContext(context.WithoutCancel(ctx))
	serving, stopServing := context.WithCancel(serving)
	defer stopServing()
	group.Go(func() error { return s.ends.watch(serving, events) })
	group.Go(func() error { return port.Serve(serving, listener, s.ends) })

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(serving, cancel)()
	err = s.hold(ctx, ready)
	err = errors.Join(err, s.stopDaemons())
	stopServing()
	return errors.Join(err, group.Wait())
}

// hold starts everything and waits for the end.
func (s *simulation) hold(ctx context.Context, ready func()) error {
	if err := s.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // asked to end
		}
		return err
	}
	s.Ready = true
	if err := s.save(); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

// prepare makes namespaces, netdevs and the place for BPF maps.
func (s *simulation) prepare() error {
	for _, name := range []string{s.Netns, s.WireNetns} {
		if err := s.ensureNetns(name); err != nil {
			return err
		}
	}
	if err := s.makeEnds(); err != nil {
		return err
	}
	if err := s.mountBPF(); err != nil {
		return err
	}
	var err error
	if s.Listen, err = s.listenURL(); err != nil {
		return err
	}
	lines, err := s.commands()
	if err != nil {
		return err
	}
	for name, args := range lines {
		if err := writeFile(s.file(name+".cmd"), []byte(shellLine(args)+"\n")); err != nil {
			return err
		}
	}
	return s.save()
}

// ensureNetns makes a namespace that is missing, and remembers that.
func (s *simulation) ensureNetns(name string) error {
	if name == "" {
		return nil
	}
	exists, err := netnsExists(name)
	if err != nil || exists {
		return err
	}
	s.Namespaces = append(s.Namespaces, name)
	if err := s.save(); err != nil {
		return err
	}
	return createNetns(name)
}

// makeEnds makes both sides of every port and puts them where they belong.
func (s *simulation) makeEnds() (err error) {
	if s.lobby, err = newLobby(); err != nil {
		return err
	}
	s.ends = &ends{lobby: s.lobby}
	dut, err := openNetns(s.Netns)
	if err != nil {
		return err
	}
	defer dut.Close()
	wire, err := openNetns(s.WireNetns)
	if err != nil {
		return err
	}
	defer wire.Close()

	byName := map[string]*plug{}
	s.ends.plugs = make([]plug, len(s.Ports))
	for i, p := range s.Ports {
		plug := &s.ends.plugs[i]
		plug.id, plug.name = hwmodel.PortID(i+1), p.Name
		byName[p.Name] = plug
		if plug.host, err = s.makeTAP(p.Name, dut, netstate.PortAltName+p.Name); err != nil {
			return err
		}
		switch {
		case p.Wire != "":
			if plug.wire, err = s.makeTAP(p.Wire, wire, ""); err != nil {
				return err
			}
			plug.host.far, plug.wire.far = plug.wire, plug.host
		case p.Netdev != "":
			if plug.wire, err = s.attach(p.Netdev, wire); err != nil {
				return err
			}
			plug.host.far = plug.wire
		}
	}
	return s.makeCables(byName)
}

// makeCables joins the ports that are plugged into each other.
func (s *simulation) makeCables(byName map[string]*plug) error {
	for _, p := range s.Ports {
		a, b := byName[p.Name], byName[p.Peer]
		if p.Peer == "" || a.wire != nil {
			continue
		}
		fds, err := s.lobby.makeCable()
		if err != nil {
			return err
		}
		a.wire = &end{name: "cable of " + p.Name, fd: fds[0]}
		b.wire = &end{name: "cable of " + p.Peer, fd: fds[1]}
		a.host.far, b.host.far = b.host, a.host
	}
	return nil
}

// makeTAP makes a TAP under its name in a namespace.
func (s *simulation) makeTAP(name string, ns *os.File, altname string) (*end, error) {
	tap, err := s.lobby.makeTAP()
	if err != nil {
		return nil, err
	}
	x := &end{name: name, tap: tap, carrier: true} // as the kernel makes it
	if err := s.place(x, ns, altname); err != nil {
		tap.Close()
		if errors.Is(err, unix.EEXIST) {
			return nil, usage("make %s: a netdev of that name exists in the namespace", name)
		}
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return x, nil
}

func (s *simulation) place(x *end, ns *os.File, altname string) error {
	made, err := x.tap.Name()
	if err != nil {
		return err
	}
	link, err := s.lobby.link(-1, made)
	if err != nil {
		return err
	}
	if altname != "" {
		if err := s.lobby.addAltname(link.index, altname); err != nil {
			return fmt.Errorf("altname %s: %w", altname, err)
		}
	}
	if err := s.lobby.move(link.index, ns, x.name); err != nil {
		return err
	}
	return x.tap.Detach()
}

// attach makes an existing netdev the wire side of a port.
func (s *simulation) attach(name string, ns *os.File) (*end, error) {
	x := &end{name: name, fd: -1}
	err := inNetns(ns, func() error {
		was, err := inspectNetdev(name)
		if err != nil {
			return err
		}
		was.Netns = s.WireNetns
		s.Attached = append(s.Attached, was)
		if err := s.save(); err != nil {
			return err
		}
		if err := was.take(); err != nil {
			s.Attached = s.Attached[:len(s.Attached)-1] // not ours to restore
			return errors.Join(err, s.save())
		}
		if err := was.silence(); err != nil {
			return err
		}
		x.fd, err = port.OpenPacket(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(x.fd)
		return nil, err
	}
	x.netdev = os.NewFile(uintptr(fd), "netns")
	return x, nil
}

// mountBPF mounts a BPF file system of the simulation's own. Without the
// privilege the simulation goes on without BPF maps, and says so.
func (s *simulation) mountBPF() error {
	path := s.file("bpf")
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	s.BPFFS = path
	if err := s.save(); err != nil {
		return err
	}
	err := unix.Mount("bpf", path, "bpf", 0, "mode=0755")
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) {
		s.log.Warn().Err(err).Msg("left out: counters in BPF maps (no BPF file system can be mounted)")
		s.BPFFS = ""
		return os.Remove(path)
	} else if err != nil {
		return fmt.Errorf("mount a BPF file system at %s: %w", path, err)
	}
	return nil
}

// listenURL chooses where agent and shim meet.
func (s *simulation) listenURL() (string, error) {
	if s.Transport == "unix" {
		return "unix://" + s.file("agent-session.sock"), nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return "tcp://" + l.Addr().String(), nil
}

// start starts the daemons and returns when the first snapshot is programmed.
func (s *simulation) start(ctx context.Context) error {
	home, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	for _, name := range daemons {
		cmd, err := launch(s.State, name, home)
		if err != nil {
			return err
		}
		ended := make(chan struct{})
		s.reapers.Go(func() {
			defer close(ended)
			err := cmd.Wait()
			if ctx.Err() == nil {
				s.log.Warn().Str("process", name).AnErr("status", err).Msg("ended; start it again with antiphon sim start " + name)
			}
		})
		if err := awaitDaemon(ctx, s.State, name, ended); err != nil {
			return err
		}
	}
	return s.firstBarrier(ctx)
}

// firstBarrier waits until everything the kernel holds now is programmed.
func (s *simulation) firstBarrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	tick := time.NewTicker(pollTime)
	defer tick.Stop()
	for {
		if err := s.ends.Settle(ctx); err != nil {
			return err
		}
		_, exit, err := transport.Call(ctx, s.file("agent.sock"), transport.VerbBarrier,
			transport.BarrierArgs{TimeoutMS: uint32(readyTime.Milliseconds())})
		switch {
		case exit == transport.ExitOK && err == nil:
			return nil
		case exit != transport.ExitUnreachable:
			return fmt.Errorf("first snapshot: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("first snapshot: %w; the agent last said: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}
