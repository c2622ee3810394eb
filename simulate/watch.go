package simulate

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// watch returns a context that ends when the client goes, and a function that
// ends the watch. The watch has to be ended before anything reads the
// connection again.
//
// A goroutine is parked in the runtime's poller until the connection becomes
// readable, and then looks at the first byte without taking it: the end of the
// stream is a client that left (half-closing counts, as in uvicorn); data is
// an early next request, after which nothing more can be seen.
func watch(parent context.Context, conn net.Conn) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	g, ok := conn.(*gateConn)
	if !ok {
		return ctx, cancel
	}
	raw, err := g.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return ctx, cancel
	}
	_ = conn.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		gone := false
		err := raw.Read(func(fd uintptr) bool {
			var b [1]byte
			for {
				n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
				switch err {
				case syscall.EAGAIN:
					return false // parked until readable
				case syscall.EINTR:
					continue
				}
				gone = err != nil || n <= 0
				return true
			}
		})
		if gone || errors.Is(err, net.ErrClosed) {
			cancel()
		}
	}()
	return ctx, func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // wakes the goroutine
		<-done
		_ = conn.SetReadDeadline(time.Time{})
		cancel()
	}
}
