package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"antiphon/hwmodel/softpipe/pipebench"
)

// perRound is about how many packets one measurement handles.
const perRound = 4 << 20

// passes is a side of a pipe measurement: packets and CPU time for so many
// passes over them.
type passes func(n int) (packets int, cpu time.Duration, err error)

// rate measures packets per second of CPU time.
func (p passes) rate(each int) measure {
	return func(context.Context) (float64, error) {
		n, cpu, err := p(max(1, min(pipebench.MaxPasses, perRound/each)))
		if err != nil {
			return 0, err
		}
		return float64(n) / cpu.Seconds(), nil
	}
}

// forward compares softpipe with the C loop over a number of packets.
func forward(packets int) func(context.Context) (*pair, error) {
	return func(context.Context) (*pair, error) {
		f, err := pipebench.NewForward(pipebench.FullTable, packets)
		if err != nil {
			return nil, err
		}
		ref, err := f.Reference()
		if errors.Is(err, pipebench.ErrNoCompiler) {
			return nil, fmt.Errorf("%w: %w", errLeftOut, err)
		} else if err != nil {
			return nil, err
		}
		return &pair{
			reference: passes(ref.Run).rate(packets),
			product:   passes(f.Run).rate(packets),
			note:      fmt.Sprintf("%d packets of 64 B, one flow each; %d routes; counters on", packets, pipebench.FullTable),
			close:     func() { ref.Close() },
		}, nil
	}
}

// forward6 compares softpipe's IPv6 with its IPv4 over as many packets and routes.
func forward6(packets int) func(context.Context) (*pair, error) {
	return func(context.Context) (*pair, error) {
		four, err := pipebench.NewForward(pipebench.FullTable, packets)
		if err != nil {
			return nil, err
		}
		six, err := pipebench.NewForward6(pipebench.FullTable, packets)
		if err != nil {
			return nil, err
		}
		return &pair{
			reference: passes(four.Run).rate(packets),
			product:   passes(six.Run).rate(packets),
			note:      fmt.Sprintf("%d packets of 64 B, one flow each; %d routes of each family; counters on", packets, pipebench.FullTable),
		}, nil
	}
}

// parse compares softpipe's parser with gopacket's.
func parse(context.Context) (*pair, error) {
	p, err := pipebench.NewParse(pipebench.HotPackets)
	if err != nil {
		return nil, err
	}
	return &pair{
		reference: passes(p.Gopacket).rate(pipebench.HotPackets),
		product:   passes(p.Run).rate(pipebench.HotPackets),
		note:      fmt.Sprintf("%d packets of 64 B; the pipe also checks addresses, lengths and checksum", pipebench.HotPackets),
	}, nil
}

// program compares programming softpipe with building a lookup table only.
func program(context.Context) (*pair, error) {
	p, err := pipebench.NewProgram(pipebench.FullTable)
	if err != nil {
		return nil, err
	}
	rate := func(build func() (int, time.Duration, error)) measure {
		return func(context.Context) (float64, error) {
			n, cpu, err := build()
			return float64(n) / cpu.Seconds(), err
		}
	}
	return &pair{
		reference: rate(p.Plain),
		product:   rate(p.Run),
		note:      fmt.Sprintf("%d routes in the order of a dump, a counter each, CPU of the thread; packets are forwarded meanwhile", pipebench.FullTable),
	}, nil
}
