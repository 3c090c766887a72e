// Command antiphond is the agent on the DPU: it keeps the device in line with
// the host kernel that a shim mirrors to it, and answers for it.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"antiphon/agent"
	"antiphon/agent/api"
	"antiphon/hwmodel"
	"antiphon/hwmodel/remote"
	"antiphon/transport"
)

// options are the command line.
type options struct {
	listen, api, device, state, logLevel string
	grace, auditInterval                 time.Duration
	predict                              bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, args []string) int {
	var o options
	usage := true // errors before RunE are the command line's
	cmd := &cobra.Command{
		Use:   "antiphond",
		Short: "Antiphon's agent: keeps a forwarding device in line with a host kernel",
		Args:  cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			level, err := zerolog.ParseLevel(o.logLevel)
			if err != nil {
				return fmt.Errorf("--log-level %q: want trace, debug, info, warn, error or disabled", o.logLevel)
			}
			if o.grace <= 0 {
				return fmt.Errorf("--grace %s: want a time above zero", o.grace)
			}
			if err := o.addresses(); err != nil {
				return err
			}
			dev, err := remote.NewClient(o.device)
			if err != nil {
				return fmt.Errorf("--device: %w", err)
			}
			defer dev.Close()
			usage = false
			return serve(cmd.Context(), o, dev, logger(level))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.state, "state", "", "state directory; gives the defaults of the three addresses")
	f.StringVar(&o.listen, "listen", "", "where shims connect: unix:///path or tcp://127.0.0.1:port (default STATE/agent-session.sock)")
	f.StringVar(&o.api, "api", "", "socket that the CLI asks (default STATE/agent.sock)")
	f.StringVar(&o.device, "device", "", "the device: unix:///path (default STATE/device.sock)")
	f.DurationVar(&o.grace, "grace", agent.DefaultGrace, "how long the device goes on forwarding without a shim")
	f.DurationVar(&o.auditInterval, "audit-interval", agent.DefaultAuditInterval, "time between complete re-reads of the kernel; negative: never")
	f.BoolVar(&o.predict, "predict", true, "trap rows at once that the kernel may have deleted without saying so")
	f.StringVar(&o.logLevel, "log-level", "info", "trace, debug, info, warn, error or disabled")
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	switch {
	case err == nil:
		return transport.ExitOK
	case usage:
		fmt.Fprintf(os.Stderr, "antiphond: %v\nTry 'antiphond --help'.\n", err)
		return transport.ExitUsage
	}
	fmt.Fprintf(os.Stderr, "antiphond: %v\n", err)
	return transport.ExitNegative
}

// logger writes to stderr: for people on a terminal, JSON otherwise.
func logger(level zerolog.Level) zerolog.Logger {
	log := zerolog.New(os.Stderr)
	if st, err := os.Stderr.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
		log = zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.TimeOnly, NoColor: os.Getenv("NO_COLOR") != ""})
	}
	return log.Level(level).With().Timestamp().Str("daemon", "antiphond").Logger()
}

// addresses fills in what the state directory gives, and checks.
func (o *options) addresses() error {
	state, err := filepath.Abs(o.state)
	if err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	defaults := []struct {
		flag         string
		value        *string
		scheme, name string
	}{
		{"--listen", &o.listen, "unix://", "agent-session.sock"},
		{"--api", &o.api, "", "agent.sock"},
		{"--device", &o.device, "unix://", "device.sock"},
	}
	for _, d := range defaults {
		if *d.value != "" {
			continue
		}
		if o.state == "" {
			return fmt.Errorf("%s or --state is needed", d.flag)
		}
		*d.value = d.scheme + filepath.Join(state, d.name)
	}
	if err := transport.Check(o.listen); err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if err := transport.Check("unix://" + o.api); err != nil {
		return fmt.Errorf("--api: %w", err)
	}
	return nil
}

// serve runs the agent until ctx ends.
func serve(ctx context.Context, o options, dev hwmodel.Device, log zerolog.Logger) error {
	sessions, err := transport.Listen(o.listen)
	if err != nil {
		return err
	}
	defer sessions.Close()
	control, err := transport.Listen("unix://" + o.api)
	if err != nil {
		return err
	}
	defer control.Close()

	a := agent.New(agent.Config{
		Log: log, Device: dev, DeviceAddress: o.device,
		Grace: o.grace, AuditInterval: o.auditInterval, Predict: o.predict,
	})
	verbs := api.New(a)
	log.Info().Str("sessions", transport.URL(sessions)).Str("api", o.api).Str("device", o.device).Msg("agent starts")

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Run(ctx, verbs.Call) })
	sessionServer := transport.NewServer()
	transport.RegisterAgentServer(sessionServer, a)
	controlServer := transport.NewServer()
	transport.ServeControl(controlServer, verbs.Call)
	serveOn(ctx, group, sessionServer, sessions)
	serveOn(ctx, group, controlServer, control)
	err = group.Wait()
	log.Info().Msg("agent stops; the device goes on as it is")
	return err
}

// serveOn runs a server until ctx ends.
func serveOn(ctx context.Context, group *errgroup.Group, srv *grpc.Server, l net.Listener) {
	group.Go(func() error {
		if err := srv.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve %s: %w", transport.URL(l), err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		srv.Stop()
		return nil
	})
}
