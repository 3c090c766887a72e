// Command antiphon-shim mirrors the routing state of one network namespace to an
// Antiphon agent, and writes the counters that come back into BPF maps.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"antiphon/hostshim"
	"antiphon/transport"
)

// Exit statuses. A supervisor must not restart a fenced shim: a newer one holds
// the session.
const (
	exitFailure   = 1
	exitUsage     = 2
	exitNamespace = 3
	exitFenced    = 5
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run is the program; it returns the exit status.
func run(ctx context.Context, args []string) int {
	var opt hostshim.Options
	var level string
	var started bool
	cmd := &cobra.Command{
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Use:               "antiphon-shim --agent URL --api PATH [--netns NAME|PATH] [--bpffs DIR]",
		Short:             "mirror the routing state of a network namespace to an Antiphon agent",
		Long: "antiphon-shim mirrors the routing state of a network namespace to an Antiphon agent.\n\n" +
			"Exit status: 0 stopped by a signal, 1 failed, 2 usage, 3 the namespace cannot be\n" +
			"entered, 5 fenced: a newer shim holds the session (do not restart).",
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(*cobra.Command, []string) error {
			if opt.Agent == "" || opt.API == "" {
				return errors.New("--agent and --api are needed")
			}
			if err := transport.Check(opt.Agent); err != nil {
				return fmt.Errorf("--agent: %w", err)
			}
			l, err := zerolog.ParseLevel(level)
			if err != nil {
				return fmt.Errorf("--log-level: %w", err)
			}
			started = true
			opt.Log = logger(l)
			return hostshim.New(opt).Run(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.Agent, "agent", "", "address of the agent: unix:///path or tcp://127.0.0.1:port")
	f.StringVar(&opt.API, "api", "", "path of the control socket to serve")
	f.StringVar(&opt.Netns, "netns", "", "network namespace to mirror: a name that ip netns knows, or a path (default: the caller's)")
	f.StringVar(&opt.BPFFS, "bpffs", "", "folder of a bpffs for the counter maps (default: none)")
	f.StringVar(&level, "log-level", "info", "trace, debug, info, warn or error")
	cmd.SetArgs(args)
	cmd.SetOut(os.Stdout)
	cmd.SetErr(os.Stderr)
	err := cmd.Execute()
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "antiphon-shim: %v\n", err)
	var namespace *hostshim.NamespaceError
	switch {
	case !started:
		return exitUsage
	case errors.As(err, &namespace):
		return exitNamespace
	case errors.Is(err, hostshim.ErrFenced):
		return exitFenced
	}
	return exitFailure
}

// logger writes for people on a terminal and JSON elsewhere.
func logger(level zerolog.Level) zerolog.Logger {
	if isatty.IsTerminal(os.Stderr.Fd()) {
		return zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr}).Level(level).With().Timestamp().Logger()
	}
	return zerolog.New(os.Stderr).Level(level).With().Timestamp().Logger()
}
