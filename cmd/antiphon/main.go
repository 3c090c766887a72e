// Command antiphon is what people use: it asks the local agent or shim, and runs
// simulations.
//
// Exit status: 0 fine, 1 a negative answer (drift, timeout, unhealthy, not
// there), 2 usage, 3 cannot reach, 4 version skew.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"antiphon/agent/api"
	"antiphon/sim"
	"antiphon/transport"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// exitError ends the program with a status.
type exitError struct {
	exit int
	err  error
	// body is the JSON document that came with the error, if any.
	body []byte
	// silent: what is to be said has been said.
	silent bool
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exitError{exit: transport.ExitUsage, err: fmt.Errorf(format, args...)}
}

// program is the state of one run.
type program struct {
	out, errOut io.Writer
	state       string
	json        bool
	// commands ran: errors before that are the command line's.
	started bool
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	p := &program{out: out, errOut: errOut}
	root := p.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return transport.ExitOK
	}
	exit := transport.ExitUsage
	if p.started {
		exit = transport.ExitNegative
	}
	var body []byte
	var mine *exitError
	var sims *sim.Error
	switch {
	case errors.As(err, &mine):
		exit, body = mine.exit, mine.body
		if mine.silent {
			return exit
		}
	case errors.As(err, &sims):
		exit = sims.Exit
		if errors.Is(err, sim.ErrSaid) && !p.json {
			return exit
		}
	}
	p.sayError(err, body, exit, p.json || wantsJSON(args))
	return exit
}

// jsonFlag finds -j, also among joined short flags, in a command line that could
// not be parsed.
var jsonFlag = regexp.MustCompile(`^(--json(=true)?|-[a-zA-Z0-9]*j[a-zA-Z0-9]*)$`)

func wantsJSON(args []string) bool {
	for _, a := range args {
		if jsonFlag.MatchString(a) {
			return true
		}
	}
	return false
}

// simCommand is package sim's command with the demo, which stands on top of it.
func simCommand() *cobra.Command {
	c := sim.Command()
	c.AddCommand(demoCommand())
	return c
}

// sayError tells an error: with -j as one JSON document on stdout, which has the
// members of the answer that came with it.
func (p *program) sayError(err error, body []byte, exit int, asJSON bool) {
	if !asJSON {
		fmt.Fprintf(p.errOut, "antiphon: %v\n", err)
		if exit == transport.ExitUsage {
			fmt.Fprintln(p.errOut, "Try 'antiphon --help'.")
		}
		return
	}
	doc := map[string]json.RawMessage{}
	if json.Unmarshal(body, &doc) != nil || doc == nil {
		doc = map[string]json.RawMessage{}
	}
	// Strings and numbers always marshal.
	doc["error"], _ = json.Marshal(err.Error())
	doc["exit"], _ = json.Marshal(exit)
	line, _ := json.Marshal(doc)
	fmt.Fprintf(p.out, "%s\n", line)
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "antiphon",
		Short: "Kernel routing state, mirrored to a forwarding device",
		Long: "antiphon asks the local agent (or, on the host, the shim) what is mirrored, what the\n" +
			"device does with it, and why; and runs simulations.\n\n" +
			"Exit status: 0 fine, 1 negative answer, 2 usage, 3 cannot reach, 4 version skew.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		PersistentPreRun:  func(*cobra.Command, []string) { p.started = true },
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("unknown command %.32q", args[0])
			}
			return usage("say what to do: barrier, show, status, why, verify, trace, sim, version")
		},
	}
	root.SetOut(p.out)
	root.SetErr(p.errOut)
	root.PersistentFlags().StringVar(&p.state, "state", "", "state directory (default ANTIPHON_STATE, /run/antiphon, or $XDG_RUNTIME_DIR/antiphon)")
	root.PersistentFlags().BoolVarP(&p.json, "json", "j", false, "answer with one JSON document")
	root.AddCommand(p.barrierCommand(), p.showCommand(), p.statusCommand(), p.whyCommand(),
		p.verifyCommand(), p.traceCommand(), p.versionCommand(), simCommand())
	return root
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which version this is",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if !p.json {
				fmt.Fprintf(p.out, "antiphon %s %s/%s\n", api.Version, runtime.GOOS, runtime.GOARCH)
				return nil
			}
			line, err := json.Marshal(map[string]string{"version": api.Version, "os": runtime.GOOS, "arch": runtime.GOARCH})
			if err != nil {
				return err
			}
			fmt.Fprintf(p.out, "%s\n", line)
			return nil
		},
	}
}

// stateDir is the state directory of this run.
func (p *program) stateDir() (string, error) {
	dir := p.state
	if dir == "" {
		dir = sim.DefaultState()
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("state directory: %w", err)
	}
	return dir, nil
}
