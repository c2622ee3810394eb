//go:build unix

package engine

import "syscall"

// quiet tells whether nothing can be read from the socket, not even its end.
// Sockets are non-blocking under Go, so this asks the kernel and does not wait.
func quiet(raw syscall.RawConn) bool {
	var quiet bool
	err := raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		quiet = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
		return true
	})
	return err == nil && quiet
}

// received takes what the kernel holds of the stream without waiting.
func received(raw syscall.RawConn, limit int) (data []byte, eof bool) {
	raw.Read(func(fd uintptr) bool {
		buf := make([]byte, readSize)
		for len(data) < limit {
			n, err := syscall.Read(int(fd), buf)
			if err == syscall.EINTR {
				continue
			}
			if err != nil {
				break
			}
			if n == 0 {
				eof = true
				break
			}
			data = append(data, buf[:n]...)
		}
		return true
	})
	return data, eof
}
