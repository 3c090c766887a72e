package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"antiphon/hwmodel"
)

// Client is a device in another process. A device that cannot be reached, now
// or in the middle of a call, gives hwmodel.ErrUnavailable; the client connects
// again by itself when it is next used.
type Client struct {
	conn   *grpc.ClientConn
	device DeviceClient
}

var _ hwmodel.Device = (*Client)(nil)

// NewClient returns a client of the device at a URL as Listen takes. It does not
// connect: the device need not be there yet.
func NewClient(url string) (*Client, error) {
	path, err := socketPath(url)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///device",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a local socket with file permissions
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		// A local socket costs nothing to try: be back soon after a restart.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 250 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", url, err)
	}
	return &Client{conn: conn, device: NewDeviceClient(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// callError says what a call's error means to a caller.
func callError(ctx context.Context, call string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("device %s: %w", call, ctx.Err())
	}
	s := status.Convert(err)
	if s.Code() == codes.Unavailable || s.Code() == codes.Canceled || errors.Is(err, io.EOF) {
		return fmt.Errorf("device %s: %w: %s", call, hwmodel.ErrUnavailable, s.Message())
	}
	return fmt.Errorf("device %s: %s: %s", call, s.Code(), s.Message())
}

// Capabilities implements hwmodel.Device.
func (c *Client) Capabilities(ctx context.Context) (hwmodel.Capabilities, error) {
	p, err := c.device.GetCapabilities(ctx, &CapabilitiesRequest{})
	if err != nil {
		return hwmodel.Capabilities{}, callError(ctx, "capabilities", err)
	}
	var d codec
	out := d.capabilities(p)
	if d.err != nil {
		return hwmodel.Capabilities{}, fmt.Errorf("device capabilities: answer: %w", d.err)
	}
	return out, nil
}

// Apply implements hwmodel.Device.
func (c *Client) Apply(ctx context.Context, b *hwmodel.Batch) (hwmodel.Result, error) {
	callCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.device.Apply(callCtx)
	if err != nil {
		return hwmodel.Result{}, callError(ctx, "apply", err)
	}
	// io.EOF says that the server has ended the call: Recv will tell why.
	if err := sendBatch(stream, b); err != nil && err != io.EOF {
		if _, ok := status.FromError(err); ok {
			err = callError(ctx, "apply", err)
		}
		return hwmodel.Result{}, err
	}
	var whole hwmodel.Result
	for {
		p, err := stream.Recv()
		if err == io.EOF {
			return whole, nil
		}
		if err != nil {
			return hwmodel.Result{}, callError(ctx, "apply", err)
		}
		var d codec
		part := result(&d, p)
		if d.err != nil {
			return hwmodel.Result{}, fmt.Errorf("device apply: answer: %w", d.err)
		}
		whole.Refused = append(whole.Refused, part.Refused...)
		whole.Final = append(whole.Final, part.Final...)
	}
}

// sendBatch sends all of a batch and closes this half of the stream.
func sendBatch(stream grpc.BidiStreamingClient[Batch, Result], b *hwmodel.Batch) error {
	send := func(c *codec, p *Batch) error {
		if c.err != nil {
			return fmt.Errorf("device apply: batch: %w", c.err)
		}
		return stream.Send(p)
	}
	err := splitEntries(&b.Set, func(part *hwmodel.Entries) error {
		var c codec
		return send(&c, &Batch{Set: within(&c, "set", part, putEntries)})
	})
	if err != nil {
		return err
	}
	err = splitKeys(&b.Delete, func(part *hwmodel.Keys) error {
		var c codec
		return send(&c, &Batch{Delete: within(&c, "delete", part, putKeys)})
	})
	if err != nil {
		return err
	}
	return stream.CloseSend()
}

// Entries implements hwmodel.Device.
func (c *Client) Entries(ctx context.Context, yield func(*hwmodel.Entries) bool) error {
	callCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.device.ReadEntries(callCtx, &EntriesRequest{})
	if err != nil {
		return callError(ctx, "entries", err)
	}
	for {
		p, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return callError(ctx, "entries", err)
		}
		var d codec
		part := entries(&d, p)
		if d.err != nil {
			return fmt.Errorf("device entries: answer: %w", d.err)
		}
		if !yield(part) {
			return nil
		}
	}
}

// Counters implements hwmodel.Device.
func (c *Client) Counters(ctx context.Context, since uint64) (hwmodel.CounterReport, error) {
	callCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.device.ReadCounters(callCtx, &CountersRequest{Since: since})
	if err != nil {
		return hwmodel.CounterReport{}, callError(ctx, "counters", err)
	}
	var whole hwmodel.CounterReport
	for first := true; ; first = false {
		p, err := stream.Recv()
		if err == io.EOF {
			return whole, nil
		}
		if err != nil {
			return hwmodel.CounterReport{}, callError(ctx, "counters", err)
		}
		var d codec
		part := report(&d, p)
		if d.err != nil {
			return hwmodel.CounterReport{}, fmt.Errorf("device counters: answer: %w", d.err)
		}
		if first {
			whole.Now = part.Now
		}
		whole.Counters = append(whole.Counters, part.Counters...)
		whole.Ports = append(whole.Ports, part.Ports...)
	}
}

// Trace implements hwmodel.Device.
func (c *Client) Trace(ctx context.Context, in hwmodel.PortID, frame []byte) (hwmodel.TraceResult, error) {
	p, err := c.device.Trace(ctx, &TraceRequest{In: uint32(in), Frame: frame})
	if err != nil {
		return hwmodel.TraceResult{}, callError(ctx, "trace", err)
	}
	var d codec
	out := d.trace(p)
	if d.err != nil {
		return hwmodel.TraceResult{}, fmt.Errorf("device trace: answer: %w", d.err)
	}
	return out, nil
}
