package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"antiphon/sim"
	"antiphon/sim/demo"
	"antiphon/transport"
)

// demoCommand is `antiphon sim demo`: it makes and removes a simulation of its
// own and leaves nothing behind.
func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show the whole road on this machine: a router, four hosts, traffic, and an account that is checked",
		Long: `Makes a router and four hosts in network namespaces, types an ordinary
configuration, sends traffic, and holds what the product says against captures
on the hosts, ip -j, and bpftool. Exit status 1 if anything disagrees.

As root everything is shown. Without root it runs in a user namespace where that
is allowed (no BPF maps), else in memory with a recorded router.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runDemo(c.Context(), c.OutOrStdout()) },
	}
}

func runDemo(ctx context.Context, out io.Writer) error {
	tier := demo.Root
	if err := mayUseTAP(); err != nil {
		fmt.Fprintf(out, "no root and no TAP devices (%v): in memory\n", err)
		tier = demo.Memory
	} else if done, err := sim.Rootless(ctx); done {
		var inner *sim.Error
		if err == nil || errors.As(err, &inner) {
			return err
		}
		fmt.Fprintf(out, "%v: in memory\n", err)
		tier = demo.Memory
	} else if err != nil {
		fmt.Fprintf(out, "the user namespace is of no use (%v): in memory\n", err)
		tier = demo.Memory
	} else if sim.IsRootless() {
		tier = demo.Rootless
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the command line tool: %w", err)
	}
	dir, err := os.MkdirTemp("", "antiphon-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	err = demo.Run(ctx, demo.Options{Tier: tier, Antiphon: self, State: filepath.Join(dir, "state"), Out: out})
	if errors.Is(err, demo.ErrDisagree) {
		return &exitError{exit: transport.ExitNegative, err: err}
	}
	return err
}

// mayUseTAP is why TAP devices cannot be opened, before anything is tried.
func mayUseTAP() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}
