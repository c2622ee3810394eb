package benchmark

// Prompts are the built-in questions, in the fields that the built-in models
// were trained in. The long answers come first: decode speed is a rate over an
// answer, and a short one is mostly its beginning and its end; and lanes that
// are done early then take short ones.
func Prompts() []string {
	return append([]string(nil), prompts...)
}

var prompts = []string{
	"Tell me a long story about a fox named Mia.",
	"I would like a long story about a turtle and a golden bell.",
	"Write a short story about an owl named Lena.",
	"Tell me a bedtime story about Hugo the hedgehog.",
	"Replace Mia by Zoe in this text:\n\nOnce upon a time there was a brave fox named Mia. Mia lived near the lighthouse and knew every path around it.",
	"Tell me a story about an otter called Finn.",
	"How do I bake a cake with plums?",
	"Give me a recipe for a cake with cherries.",
	"How does speculative decoding work?",
	"Write the multiplication table of 7.",
	"Write a Go struct for lemons.",
	"Write a Python function that can multiply two numbers.",
	"Write a long story about a bear named Otto.",
	"Repeat this text:\n\nSpeculative decoding pairs a small draft model with a large target model. The draft proposes a few tokens, and the target checks all of them in a single pass.",
	"Copy the following text:\n\nWeather report for Oslo, Monday: expect snow during the day, with about -3 degrees in the afternoon and -9 degrees at night. Wear boots and a warm coat.",
	"I have some pears. What can I bake?",
	"Give me a JSON object for a user named Ada, aged 34, from Lisbon.",
	"Write a Go function that can add two numbers.",
	"Count from 5 to 24.",
	"Write JSON for Omar, age 51, city Nairobi.",
	"List the planets.",
	"Write a weather report for Kyoto on Friday with rain and 14 degrees.",
	"Why is decoding slow?",
	"Write a loop in Go that prints the numbers from 1 to 12.",
	"What are the months?",
	"List the days of the week.",
	"Explain the acceptance rate.",
	"What is a DGX Spark?",
	"Write a short poem about the sea.",
	"Is speculative decoding lossless?",
	"Write a loop in Python that prints the numbers from 1 to 20.",
	"Name 5 animals.",
	"Think step by step. How much is 17 plus 8?",
	"Write a weather report for Cairo on Sunday with sun and 31 degrees.",
	"Tell me a joke.",
	"What is 12 times 11?",
	"How much is 19 - 7?",
	"Say hello in Japanese.",
	"How do you say hello in Spanish?",
	"Say hello in Greek.",
	"What can you do?",
	"Who are you?",
}
