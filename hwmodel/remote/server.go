package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"antiphon/hwmodel"
)

// Serve offers the device at a listener until ctx ends; it closes the listener.
// Calls under way are then broken off, and over when it returns.
func Serve(ctx context.Context, listener net.Listener, device hwmodel.Device) error {
	s := grpc.NewServer(
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.WaitForHandlers(true),
	)
	RegisterDeviceServer(s, &server{device: device})
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	err := s.Serve(listener)
	if ctx.Err() != nil {
		s.Stop() // waits for the Stop under way
		return nil
	}
	return fmt.Errorf("serve device: %w", err)
}

// server answers with a device.
type server struct {
	UnimplementedDeviceServer
	device hwmodel.Device
}

// failed turns a device's error into a status.
func failed(err error) error {
	switch {
	case errors.Is(err, hwmodel.ErrUnavailable):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Internal, err.Error())
}

// malformed is the status of a request that cannot be understood.
func malformed(err error) error { return status.Error(codes.InvalidArgument, err.Error()) }

func (s *server) GetCapabilities(ctx context.Context, _ *CapabilitiesRequest) (*Capabilities, error) {
	capabilities, err := s.device.Capabilities(ctx)
	if err != nil {
		return nil, failed(err)
	}
	var c codec
	out := c.putCapabilities(capabilities)
	if c.err != nil {
		return nil, failed(c.err)
	}
	return out, nil
}

func (s *server) Apply(stream grpc.BidiStreamingServer[Batch, Result]) error {
	var whole hwmodel.Batch
	for {
		p, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		var c codec
		part := batch(&c, p)
		if c.err != nil {
			return malformed(c.err)
		}
		addEntries(&whole.Set, &part.Set)
		addKeys(&whole.Delete, &part.Delete)
		if n := whole.Set.Len() + whole.Delete.Len(); n > MaxBatch {
			return status.Errorf(codes.ResourceExhausted, "batch of more than %d entries", MaxBatch)
		}
	}
	r, err := s.device.Apply(stream.Context(), &whole)
	if err != nil {
		return failed(err)
	}
	send := func(part *hwmodel.Result) error {
		var c codec
		out := putResult(&c, part)
		if c.err != nil {
			return failed(c.err)
		}
		return stream.Send(out)
	}
	err = split(r.Refused, partRows, func(part []hwmodel.Refusal) error { return send(&hwmodel.Result{Refused: part}) })
	if err != nil {
		return err
	}
	return split(r.Final, partRows, func(part []hwmodel.Counter) error { return send(&hwmodel.Result{Final: part}) })
}

func (s *server) ReadEntries(_ *EntriesRequest, stream grpc.ServerStreamingServer[Entries]) error {
	var sendErr error
	err := s.device.Entries(stream.Context(), func(chunk *hwmodel.Entries) bool {
		sendErr = splitEntries(chunk, func(part *hwmodel.Entries) error {
			var c codec
			out := putEntries(&c, part)
			if c.err != nil {
				return failed(c.err)
			}
			return stream.Send(out)
		})
		return sendErr == nil
	})
	if sendErr != nil {
		return sendErr
	}
	if err != nil {
		return failed(err)
	}
	return nil
}

func (s *server) ReadCounters(r *CountersRequest, stream grpc.ServerStreamingServer[CounterReport]) error {
	all, err := s.device.Counters(stream.Context(), r.Since)
	if err != nil {
		return failed(err)
	}
	// The first part has everything but the many.
	var c codec
	first := putReport(&c, &hwmodel.CounterReport{Now: all.Now, Ports: all.Ports})
	if c.err != nil {
		return failed(c.err)
	}
	if err := stream.Send(first); err != nil {
		return err
	}
	return split(all.Counters, partRows, func(part []hwmodel.Counter) error {
		return stream.Send(putReport(&codec{}, &hwmodel.CounterReport{Counters: part}))
	})
}

func (s *server) Trace(ctx context.Context, r *TraceRequest) (*TraceResult, error) {
	var c codec
	in := c.port("in", r.In)
	if c.err != nil {
		return nil, malformed(c.err)
	}
	out, err := s.device.Trace(ctx, in, r.Frame)
	if err != nil {
		return nil, failed(err)
	}
	return putTrace(out), nil
}
