package main

import (
	"context"
	"fmt"
	"time"

	"paceline/engine"
)

type healthCommand struct {
	URL     string        `arg:"" optional:"" default:"http://127.0.0.1:8787" help:"The proxy."`
	Timeout time.Duration `default:"2s" help:"How long to wait for the answer."`
}

func (h *healthCommand) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	c, err := engine.NewClient(h.URL, engine.ClientOptions{DialTimeout: h.Timeout})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.JSON(ctx, "GET", "/health", nil); err != nil {
		return err
	}
	fmt.Println("healthy")
	return nil
}
