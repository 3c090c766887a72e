package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"antiphon/hostshim/rtnl"
	"antiphon/hostshim/shimbench"
)

const (
	// dumpRoutes is the table that is dumped.
	dumpRoutes = 1_000_000
	// liveRoutes come at once: what the notification socket's buffer holds.
	liveRoutes = 100_000
)

// bytesPerSecond is a measurement's result: both sides read the same bytes.
func bytesPerSecond(r shimbench.Rate, err error) (float64, error) {
	return float64(r.Bytes) / r.CPU.Seconds(), err
}

// dump compares the mirror's dump of a full table with reading it only.
func dump(context.Context) (*pair, error) {
	ns, err := newNetns()
	if err != nil {
		return nil, err
	}
	fd := int(ns.Fd())
	if err := shimbench.Fill(fd, dumpRoutes, false); err != nil {
		ns.Close()
		return nil, err
	}
	return &pair{
		reference: func(context.Context) (float64, error) { return bytesPerSecond(shimbench.RawDump(fd)) },
		product:   func(context.Context) (float64, error) { return bytesPerSecond(shimbench.MirrorDump(fd)) },
		note:      fmt.Sprintf("%d IPv4 routes, into a null sink", dumpRoutes),
		close:     func() { ns.Close() },
	}, nil
}

// live compares the mirror's reading of notifications with receiving them only.
// Both listen to the same changes, on sockets of their own.
func live(context.Context) (*pair, error) {
	ns, err := newNetns()
	if err != nil {
		return nil, err
	}
	fd := int(ns.Fd())
	l, err := shimbench.OpenLive(fd, rtnl.DefaultBuffer)
	if err != nil {
		ns.Close()
		return nil, err
	}
	filled, want := false, 0
	return &pair{
		reference: func(context.Context) (float64, error) {
			if err := shimbench.Fill(fd, liveRoutes, filled); err != nil {
				return 0, err
			}
			filled = !filled
			r, err := l.Bare()
			want = r.Bytes
			return bytesPerSecond(r, err)
		},
		product: func(context.Context) (float64, error) {
			r, err := l.Mirror()
			if err == nil && r.Bytes != want {
				err = fmt.Errorf("%d bytes mirrored, the bare loop received %d", r.Bytes, want)
			}
			return bytesPerSecond(r, err)
		},
		note:  fmt.Sprintf("%d IPv4 routes added or deleted at once, into a null sink", liveRoutes),
		close: func() { l.Close(); ns.Close() },
	}, nil
}

// newNetns makes a network namespace that lives as long as its file.
func newNetns() (*os.File, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: needs root: makes a network namespace", errLeftOut)
	}
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			done <- result{nil, fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		done <- result{file, err}
	}()
	r := <-done
	return r.file, r.err
}
