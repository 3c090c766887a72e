package sim

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Command is `antiphon sim` with its verbs up, down, start and kill. The state
// directory is the --state flag that an ancestor command declares as a
// persistent one, or DefaultState.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "The running simulation: ports, device, agent and shim on this machine",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			return usage("sim: say what to do: up, down, start, kill")
		},
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage("%s: %w", c.CommandPath(), err) })
	cmd.AddCommand(upCommand(), downCommand(), startCommand(), killCommand())
	return cmd
}

// DefaultState is where a simulation lives that nobody gave a place.
func DefaultState() string {
	if s := os.Getenv("ANTIPHON_STATE"); s != "" {
		return s
	}
	if os.Geteuid() != 0 {
		if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
			return filepath.Join(run, "antiphon")
		}
		return filepath.Join(os.TempDir(), fmt.Sprintf("antiphon-%d", os.Geteuid()))
	}
	return "/run/antiphon"
}

// stateOf returns the state directory that a command was given.
func stateOf(c *cobra.Command) (string, error) {
	state := DefaultState()
	if f := c.Flag("state"); f != nil && f.Value.String() != "" {
		state = f.Value.String()
	}
	return filepath.Abs(state)
}

// upFlags are the flags of `sim up` as given.
type upFlags struct {
	ports, cables, sizes []string
	cfg                  Config
	detach, detached     bool
}

func upCommand() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up --port swp1=w1 [--port swp2=@eth1] [--cable swp3=swp4]",
		Short: "Start a simulation and hold it until SIGINT, SIGTERM or sim down",
		Long: `Makes the ports, starts device, agent and shim, prints "ready" when the first
snapshot of the kernel is programmed, and holds the simulation until it is
ended. On a failure nothing stays behind.

  --port swp1=w1     two TAPs: the representor swp1, which you configure like a
                     switch's port, and the cable end w1, which you may move to
                     any namespace
  --port swp1=@eth0  the existing netdev eth0 of the wire namespace as the
                     port's wire side; it must have no addresses and no master
  --cable swp3=swp4  two ports plugged into each other`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.ports, "port", nil, "a port: NAME=WIRE or NAME=@NETDEV (repeat)")
	flags.StringArrayVar(&f.cables, "cable", nil, "two ports plugged into each other: NAME=NAME (repeat)")
	flags.StringVar(&f.cfg.Netns, "netns", "", "network namespace of the representors: a name, or a path if it contains a slash; made if missing")
	flags.StringVar(&f.cfg.WireNetns, "wire-netns", "", "network namespace of the wire ends, likewise")
	flags.StringVar(&f.cfg.Transport, "transport", "unix", "between shim and agent: unix or tcp")
	flags.StringVar(&f.cfg.Pipe, "pipe", "", "the device's pipe: softpipe or refpipe")
	flags.StringArrayVar(&f.sizes, "size", nil, "entries of a device table: TABLE=N (repeat)")
	flags.StringVar(&f.cfg.LogLevel, "log-level", "", "of all processes: trace, debug, info, warn, error")
	flags.BoolVar(&f.detach, "detach", false, "return when ready, and leave the simulation running")
	flags.BoolVar(&f.detached, "detached", false, "")
	_ = flags.MarkHidden("detached") // the flag was declared above
	return cmd
}

func (f *upFlags) run(c *cobra.Command) error {
	if err := f.complete(c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(contextOf(c), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Geteuid() != 0 {
		fmt.Fprintf(c.ErrOrStderr(), "not root: running in namespaces of your own (left out: BPF maps, existing netdevs);\n"+
			"enter them with: nsenter --user --net --mount --preserve-credentials -t $(cat %s)\n", f.cfg.file("sim.pid"))
	}
	if done, err := Rootless(ctx); done || err != nil {
		return err
	}
	if f.detach {
		return runDetached(ctx)
	}
	level, err := zerolog.ParseLevel(f.cfg.LogLevel)
	if err != nil {
		return usage("--log-level %q: want trace, debug, info, warn or error", f.cfg.LogLevel)
	}
	if f.cfg.LogLevel == "" {
		level = zerolog.InfoLevel
	}
	log := zerolog.New(logWriter()).Level(level).With().Timestamp().Logger()
	if !f.detached {
		return Up(ctx, f.cfg, log, func() { fmt.Fprintln(c.OutOrStdout(), "ready") })
	}
	return Up(ctx, f.cfg, log, func() {
		fmt.Fprintln(c.OutOrStdout(), "ready")
		f.leaveParent(log)
	})
}

// complete makes a Config of the flags and checks it.
func (f *upFlags) complete(c *cobra.Command) (err error) {
	if f.cfg.State, err = stateOf(c); err != nil {
		return err
	}
	for _, s := range f.ports {
		p, err := ParsePort(s)
		if err != nil {
			return err
		}
		f.cfg.Ports = append(f.cfg.Ports, p)
	}
	for _, s := range f.cables {
		two, err := ParseCable(s)
		if err != nil {
			return err
		}
		f.cfg.Ports = append(f.cfg.Ports, two[:]...)
	}
	f.cfg.Sizes = f.sizes
	return f.cfg.Check()
}

// logWriter is stderr, for people on a terminal and as JSON otherwise.
func logWriter() io.Writer {
	if _, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS); err != nil {
		return os.Stderr
	}
	return zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: "15:04:05.000"}
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the simulation and remove all that it made",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			state, err := stateOf(c)
			if err != nil {
				return err
			}
			return Down(state)
		},
	}
}

func startCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "start agent|device|shim",
		Short:     "Start a process of the simulation again; returns when it answers",
		Args:      oneDaemon,
		ValidArgs: daemons,
		RunE: func(c *cobra.Command, args []string) error {
			state, err := stateOf(c)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(contextOf(c), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return Start(ctx, state, args[0])
		},
	}
}

func killCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "kill agent|device|shim",
		Short:     "Kill a process of the simulation without warning",
		Args:      oneDaemon,
		ValidArgs: daemons,
		RunE: func(c *cobra.Command, args []string) error {
			state, err := stateOf(c)
			if err != nil {
				return err
			}
			return Kill(state, args[0])
		},
	}
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("%s: %q is not understood", c.CommandPath(), args[0])
	}
	return nil
}

func oneDaemon(c *cobra.Command, args []string) error {
	if len(args) != 1 || !IsDaemon(args[0]) {
		return usage("%s: want one of agent, device, shim", c.CommandPath())
	}
	return nil
}

// contextOf is the command's context, also if it was executed without one.
func contextOf(c *cobra.Command) context.Context {
	if ctx := c.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}
