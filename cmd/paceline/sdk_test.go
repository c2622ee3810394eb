package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	openai "github.com/sashabaranov/go-openai"
)

// TestSDK asks through a client library that knows nothing of us.
func TestSDK(t *testing.T) {
	s := serve(t, "--profile", "fast", "--draft-profile", "fast", "--quiet")
	o := openai.DefaultConfig("unused")
	o.BaseURL = s.Proxy + "/v1"
	client := openai.NewClientWithConfig(o)
	ctx := context.Background()

	models, err := client.ListModels(ctx)
	if err != nil || len(models.Models) != 1 || models.Models[0].ID != "target" {
		t.Fatalf("%v: models %+v", err, models)
	}
	request := openai.ChatCompletionRequest{
		Model: "target", MaxCompletionTokens: 80, Temperature: 1e-9, // the library drops a 0
		Messages:      []openai.ChatCompletionMessage{{Role: "user", Content: "What is a draft model?"}},
		StreamOptions: &openai.StreamOptions{IncludeUsage: true},
	}
	stream, err := client.CreateChatCompletionStream(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var text strings.Builder
	var usage *openai.Usage
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range chunk.Choices {
			text.WriteString(c.Delta.Content)
		}
		if chunk.Usage != nil {
			usage = chunk.Usage
		}
	}
	if !strings.HasPrefix(text.String(), "A draft model is a small and fast model") || usage == nil || usage.CompletionTokens < 10 {
		t.Errorf("%q, usage %+v", text.String(), usage)
	}

	request.StreamOptions = nil
	whole, err := client.CreateChatCompletion(ctx, request)
	if err != nil || whole.Choices[0].Message.Content != text.String() {
		t.Errorf("%v: unstreamed %+v, streamed %q", err, whole, text.String())
	}
	var api *openai.APIError
	request.Model = "other"
	if _, err := client.CreateChatCompletion(ctx, request); !errors.As(err, &api) || api.HTTPStatusCode != 404 {
		t.Errorf("another model: %v", err)
	}
}
