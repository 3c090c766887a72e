package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"antiphon/hwmodel"
	"antiphon/hwmodel/port"
	"antiphon/hwmodel/refpipe"
	"antiphon/hwmodel/softpipe"
)

// device is a pipe with its ports: the pipe counts entries, the board ports.
type device struct {
	hwmodel.Pipe
	board *port.Board
}

// Counters implements hwmodel.Device.
func (d device) Counters(ctx context.Context, since uint64) (hwmodel.CounterReport, error) {
	report, err := d.Pipe.Counters(ctx, since)
	if err != nil {
		return hwmodel.CounterReport{}, err
	}
	report.Ports = d.board.Counters()
	return report, nil
}

// sizes is what a device's tables take; 0 leaves the choice to the pipe.
type sizes [hwmodel.TableCount]uint32

// newPipe returns the pipe of the given name, which is one of pipeNames.
func newPipe(name string, instance uint64, ports []hwmodel.PortInfo, sizes sizes) hwmodel.Pipe {
	if name == "refpipe" {
		return refpipe.New(refpipe.Options{Ports: ports, Sizes: sizes, Instance: instance})
	}
	return softpipe.New(softpipe.Options{Ports: ports, Sizes: sizes, Instance: instance})
}

// parseSizes reads the values of --size: table=entries.
func parseSizes(values []string) (sizes, error) {
	tables := map[string]hwmodel.Table{}
	for t := hwmodel.TableInterface; int(t) < hwmodel.TableCount; t++ {
		tables[t.String()] = t
	}
	var out sizes
	for _, value := range values {
		name, number, _ := strings.Cut(value, "=")
		table, ok := tables[name]
		if !ok {
			known := slices.Sorted(maps.Keys(tables))
			return sizes{}, fmt.Errorf("--size %s: no table %q, expected one of %s", value, name, strings.Join(known, ", "))
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || n == 0 {
			return sizes{}, fmt.Errorf("--size %s: expected %s=N with N from 1 to 4294967295", value, name)
		}
		out[table] = uint32(n)
	}
	return out, nil
}
