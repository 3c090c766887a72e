package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

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
		RunE: func(c *cobra.Command, _ []string) error {
			if !demo.PrepareUserNamespace() {
				return &exitError{exit: demo.ExitNotHere, err: errors.New("no mounts in this user namespace")}
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
			err = demo.Run(c.Context(), demo.Options{Antiphon: self, State: filepath.Join(dir, "state"), Out: c.OutOrStdout()})
			if errors.Is(err, demo.ErrDisagree) {
				return &exitError{exit: transport.ExitNegative, err: err}
			}
			return err
		},
	}
}
