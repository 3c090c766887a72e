package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"antiphon/transport"
)

// captureArgs are the flags of trace.
type captureArgs struct {
	file, port string
	count      int
}

// check refuses what contradicts itself.
func (a *captureArgs) check(words []string) error {
	switch {
	case a.file != "" && len(words) > 0:
		return usage("-r and %.32q contradict each other: a capture, or words that describe one packet", words[0])
	case a.file == "" && (a.port != "" || a.count != 0):
		return usage("--in-port and -n are about a capture: give it with -r")
	case a.count < 0:
		return usage("-n %d: want a number of packets", a.count)
	}
	return nil
}

// traceCapture traces each packet of a capture. What the device drops makes the
// answer negative; an error ends it.
func (p *program) traceCapture(ctx context.Context, args *captureArgs) error {
	file, err := os.Open(args.file)
	if err != nil {
		return usage("trace: %w", err)
	}
	defer file.Close()
	c, err := openCapture(file, args.port)
	if err != nil {
		return fmt.Errorf("trace: %s: %w", args.file, err)
	}
	var negative error
	for n := 0; args.count == 0 || n < args.count; n++ {
		packet, err := c.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("trace: %s: %w", args.file, err)
		}
		if err := p.traceCaptured(ctx, packet); silent(err) {
			negative = err
		} else if err != nil {
			return fmt.Errorf("packet %d: %w", packet.number, err)
		}
	}
	return negative
}

// silent says whether an error is a negative answer, which has been told.
func silent(err error) bool {
	var known *exitError
	return errors.As(err, &known) && known.silent
}

func (p *program) traceCaptured(ctx context.Context, packet captured) error {
	body, err := p.ask(ctx, callTimeout, transport.VerbTrace, transport.TraceArgs{Port: packet.port, Frame: packet.frame})
	if rest, ok := bytes.CutPrefix(bytes.TrimSpace(body), []byte("{")); ok && json.Valid(body) {
		body = append(fmt.Appendf(nil, `{"packet":%d,`, packet.number), rest...)
	}
	return p.tell(body, err, func(w *printer, body []byte) error {
		w.line("packet %d  in %s  %d bytes", packet.number, packet.port, len(packet.frame))
		return traceText(w, body)
	})
}
