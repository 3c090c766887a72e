package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"antiphon/agent/api"
	"antiphon/netstate"
	"antiphon/transport"
)

func (p *program) barrierCommand() *cobra.Command {
	var timeout time.Duration
	var audit bool
	cmd := &cobra.Command{
		Use:   "barrier [--timeout 30s] [--audit]",
		Short: "Return when every change the kernel made before is programmed or refused",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ms, err := milliseconds(timeout)
			if err != nil {
				return err
			}
			began := time.Now()
			if err := p.settle(c.Context(), timeout); err != nil {
				return err
			}
			body, err := p.ask(c.Context(), timeout+answerMargin, transport.VerbBarrier,
				transport.BarrierArgs{TimeoutMS: rest(ms, began), Audit: audit})
			return p.tell(body, err, func(*printer, []byte) error { return nil })
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", api.DefaultTimeout, "how long to wait")
	cmd.Flags().BoolVar(&audit, "audit", false, "read the whole kernel state again first")
	return cmd
}

// maxTimeout bounds what a person may wait for.
const maxTimeout = 24 * time.Hour

func milliseconds(d time.Duration) (uint32, error) {
	if d < time.Millisecond || d > maxTimeout {
		return 0, usage("--timeout %s: want 1ms to %s", d, maxTimeout)
	}
	return uint32(d.Milliseconds()), nil
}

// rest is what is left of a timeout, at least a millisecond.
func rest(ms uint32, began time.Time) uint32 {
	return uint32(max(1, int64(ms)-time.Since(began).Milliseconds()))
}

func (p *program) showCommand() *cobra.Command {
	args := transport.ShowArgs{}
	var four, six bool
	cmd := &cobra.Command{
		Use:   "show link|address|neighbor|route|rule|nexthop|counters [filter]",
		Short: "Show mirrored rows and what became of them, or the ports' counters",
		Long: `Shows what is mirrored in iproute2's words, each row with its fate: offload (in
the device), trap (left to the host, with the reason), rt_offload_failed.

The filter takes iproute2's words: an object (10.0.0.0/8, 192.0.2.1, swp1, a
nexthop's id, a rule's preference), dev NAME, and for routes table T, root
PREFIX, match PREFIX, proto P, via ADDRESS, metric N, nhid N, type T; for all
fate F and reason R. Without a filter: all rows of all tables.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, words []string) error {
			switch {
			case four && six:
				return usage("-4 and -6 contradict each other")
			case four:
				args.Family = 2
			case six:
				args.Family = 10
			}
			if words[0] == "counters" {
				if len(words) > 1 || args.Family != 0 {
					return usage("show counters takes no filter")
				}
				body, err := p.ask(c.Context(), callTimeout, transport.VerbCounters, transport.CountersArgs{Reasons: args.Stats || !p.json})
				return p.tell(body, err, countersText)
			}
			kind, err := netstate.ParseKind(words[0])
			if err != nil {
				return usage("show: %w, or counters", err)
			}
			args.Kind, args.Filter = kind.String(), words[1:]
			body, err := p.ask(c.Context(), callTimeout, transport.VerbShow, args)
			return p.tell(body, err, func(w *printer, body []byte) error { return rowsText(w, kind, body, args.Stats) })
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&args.Stats, "stats", "s", false, "with packets and bytes; of counters: with the reasons of traps")
	f.BoolVarP(&four, "ipv4", "4", false, "IPv4 only")
	f.BoolVarP(&six, "ipv6", "6", false, "IPv6 only")
	return cmd
}

func (p *program) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say how host, session, agent and device are",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			body, err := p.ask(c.Context(), callTimeout, transport.VerbStatus, nil)
			return p.tell(body, err, statusText)
		},
	}
}

func (p *program) whyCommand() *cobra.Command {
	var refused bool
	cmd := &cobra.Command{
		Use:   "why OBJECT | --refused",
		Short: "Say what became of an object, why, and what to do about it",
		Long: `The object is a route (10.2.0.0/16, default, with table T for others than main),
an address, a neighbour (192.0.2.1 dev swp1), an interface or port (swp1), a
nexthop (nexthop id 9) or a rule (rule 100). An address that is none of these
is looked up: the answer is about its longest route.`,
		RunE: func(c *cobra.Command, words []string) error {
			if refused == (len(words) > 0) {
				return usage("why: name one object, or ask for --refused")
			}
			body, err := p.ask(c.Context(), callTimeout, transport.VerbWhy, transport.WhyArgs{Object: words, Refused: refused})
			return p.tell(body, err, whyText)
		},
	}
	cmd.Flags().BoolVar(&refused, "refused", false, "everything the device did not take")
	return cmd
}

func (p *program) verifyCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Compare kernel, agent and device; exit status 1 on a difference",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ms, err := milliseconds(timeout)
			if err != nil {
				return err
			}
			began := time.Now()
			if err := p.settle(c.Context(), timeout); err != nil {
				return err
			}
			body, err := p.ask(c.Context(), timeout+answerMargin, transport.VerbVerify, transport.VerifyArgs{TimeoutMS: rest(ms, began)})
			return p.tell(body, err, verifyText)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", api.DefaultTimeout, "how long to take")
	return cmd
}

func (p *program) traceCommand() *cobra.Command {
	var from captureArgs
	cmd := &cobra.Command{
		Use:   "trace in PORT ip|ip6 src ADDRESS dst ADDRESS [proto tcp] [sport N] [dport N] [ttl N] [len N] [tos N] [smac MAC] [dmac MAC] | -r FILE",
		Short: "Run packets through the device's tables, without sending them",
		Long: `Runs a packet through the tables, stage by stage: the entry that each matched, the
kernel's object that this comes from, and the verdict. The packet is one that the
words describe, or each one of a capture (pcap or pcapng; the names of a pcapng
file's interfaces are the ports where its packets came in). Captures with -j give
one JSON document per packet. Exit status 1: a packet is dropped.`,
		RunE: func(c *cobra.Command, words []string) error {
			if err := from.check(words); err != nil {
				return fmt.Errorf("trace: %w", err)
			}
			if from.file != "" {
				return p.traceCapture(c.Context(), &from)
			}
			args, err := parseTrace(words)
			if err != nil {
				return fmt.Errorf("trace: %w", err)
			}
			body, err := p.ask(c.Context(), callTimeout, transport.VerbTrace, args)
			return p.tell(body, err, traceText)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&from.file, "read", "r", "", "trace the packets of a capture")
	f.StringVar(&from.port, "in-port", "", "where the capture's packets came in, whatever the file says")
	f.IntVarP(&from.count, "count", "n", 0, "how many packets of the capture (default all)")
	return cmd
}
