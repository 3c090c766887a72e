// Command antiphon-device is a forwarding device in software: it takes its ports
// from a simulation, frames from the ports, and entries from an agent.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"antiphon/hwmodel/port"
	"antiphon/hwmodel/remote"
	"antiphon/transport"
)

// attachTime bounds how long the owner of the ports may take to hand them over.
const attachTime = 10 * time.Second

// options are the command line.
type options struct {
	listen, ports, counters, pipe string
	sizes                         sizes
	police                        port.Policing
	log                           zerolog.Logger
}

// errUnreachable marks errors that end with transport.ExitUnreachable.
var errUnreachable = errors.New("cannot reach the ports")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var (
		o     options
		size  []string
		rates []string
		level string
		usage = true // errors before serve are the command line's
	)
	cmd := &cobra.Command{
		Use:   "antiphon-device",
		Short: "Antiphon's software device: forwards as the host kernel would, or traps",
		Args:  cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if !strings.HasPrefix(o.listen, "unix://") {
				return fmt.Errorf("--listen %s: expected unix:///path", o.listen)
			}
			if o.pipe != "softpipe" && o.pipe != "refpipe" {
				return fmt.Errorf("--pipe %s: expected softpipe or refpipe", o.pipe)
			}
			if o.sizes, err = parseSizes(size); err != nil {
				return err
			}
			if o.police, err = port.ParsePolicing(rates); err != nil {
				return fmt.Errorf("--police %w", err)
			}
			l, err := zerolog.ParseLevel(level)
			if err != nil {
				return fmt.Errorf("--log-level: %w", err)
			}
			o.log = logger(stderr, l)
			usage = false
			return serve(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "", "where the agent connects: unix:///path")
	f.StringVar(&o.ports, "ports", "", "socket of the owner of the ports (sim.sock)")
	f.StringVar(&o.counters, "counters", "", "file of the port counters; made if there is none, kept over restarts")
	f.StringVar(&o.pipe, "pipe", "softpipe", "softpipe (fast) or refpipe (the specification)")
	f.StringArrayVar(&size, "size", nil, "entries that a table takes, as table=N; repeatable")
	f.StringArrayVar(&rates, "police", nil, "traps that the host takes from each port, as REASON=PPS[/BURST] or REASON=off; "+
		"the reason default stands for the others; repeatable")
	f.StringVar(&level, "log-level", "info", "trace, debug, info, warn, error or disabled")
	for _, name := range []string{"listen", "ports", "counters"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	switch {
	case err == nil:
		return transport.ExitOK
	case usage:
		fmt.Fprintf(stderr, "antiphon-device: %v\nTry 'antiphon-device --help'.\n", err)
		return transport.ExitUsage
	}
	o.log.Error().Err(err).Msg("device ends")
	if errors.Is(err, errUnreachable) {
		return transport.ExitUnreachable
	}
	return transport.ExitNegative
}

// logger writes for people on a terminal, JSON otherwise.
func logger(to io.Writer, level zerolog.Level) zerolog.Logger {
	log := zerolog.New(to)
	if f, ok := to.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
			log = zerolog.New(zerolog.ConsoleWriter{Out: to, TimeFormat: time.TimeOnly, NoColor: os.Getenv("NO_COLOR") != ""})
		}
	}
	return log.Level(level).With().Timestamp().Str("daemon", "antiphon-device").Logger()
}

// serve is the device's life: it ends with ctx, or when the ports are gone.
func serve(ctx context.Context, o options) (err error) {
	attachment, err := attach(ctx, o.ports)
	if err != nil {
		if ctx.Err() != nil { // told to stop meanwhile
			return nil
		}
		return err
	}
	defer attachment.Close()
	infos := port.Infos(attachment.Ports)
	board, err := port.OpenBoard(o.counters, infos)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, board.Close()) }()

	pipe := newPipe(o.pipe, newInstance(), infos, o.sizes)
	loop, err := port.NewSwitch(pipe, attachment.Ports, board, o.police, o.log)
	if err != nil {
		return err
	}
	listener, err := remote.Listen(o.listen)
	if err != nil {
		return err
	}
	o.log.Info().Str("listen", o.listen).Str("pipe", o.pipe).Int("ports", len(infos)).Msg("device starts")

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return loop.Run(ctx) })
	group.Go(func() error { return remote.Serve(ctx, listener, device{pipe, board}) })
	group.Go(func() error {
		if err := attachment.Wait(ctx); err != nil {
			return fmt.Errorf("%w: %w", errUnreachable, err)
		}
		return nil
	})
	err = group.Wait()
	if err == nil {
		o.log.Info().Msg("device stops")
	}
	return err
}

func attach(ctx context.Context, path string) (*port.Attachment, error) {
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	attachment, err := port.Attach(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	return attachment, nil
}

// newInstance returns a number that tells this life of the device from others.
func newInstance() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.NativeEndian.Uint64(b[:]) | 1
}
