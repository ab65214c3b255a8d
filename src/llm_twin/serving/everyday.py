"""Everyday questions over many subjects: what a corpus is usually not about.

They stand in code, not in a text file, so that a twin of this repository does not learn them.
"""

from __future__ import annotations

_LINES = """
How long do I roast a chicken?
What can I use instead of eggs in a cake?
How do I bake sourdough bread?
Which spices go into a curry?
How do I keep avocados from going brown?
How do I sharpen a kitchen knife?
Who won the last Olympic marathon?
What are the rules of cricket?
How many points is a touchdown worth?
How do I improve my backhand in tennis?
Which country hosted the first football World Cup?
What should I see in Lisbon in three days?
Do I need a visa for Japan?
What is the cheapest way to fly to Australia?
How do I get from the airport to the city centre?
When is the best season to visit Iceland?
How do I treat a sprained ankle?
What are the symptoms of the flu?
How many hours of sleep does a child need?
Is it safe to take ibuprofen with alcohol?
Which foods are rich in iron?
How do I lower my blood pressure?
Who was the first emperor of China?
When did the Second World War end?
Why did the Titanic sink?
What caused the French Revolution?
Who built the pyramids?
How do I open a savings account?
What is the difference between a stock and a bond?
How do I claim my travel expenses?
How much pension will I receive?
What is inflation?
Who sang Bohemian Rhapsody?
Which film won the Oscar for best picture?
What is the ending of Hamlet about?
Who plays the piano in Casablanca?
Which book should I give my grandmother?
How far away is the Moon?
Why do cats purr?
What do hedgehogs eat in winter?
How deep is the Pacific Ocean?
Why do leaves change colour in autumn?
What is the chemical formula of table salt?
How do volcanoes erupt?
When should I prune roses?
How often should I water a cactus?
How do I remove moss from my lawn?
How do I change a flat tyre?
What oil does my car need?
How do I fix a dripping tap?
How do I paint a ceiling without drips?
How do I get chewing gum out of a jacket?
What is a fair rent for a two-room flat?
How do I write a cancellation letter to my gym?
Who inherits when there is no will?
How do I tie a bow tie?
How do I teach my dog to sit?
What are good names for a baby girl?
How do I centre an image with CSS?
How do I declare an array in Pascal?
How do I reverse a linked list in C?
How do I reset my router?
Why is my printer offline?
How do I tune a ukulele?
Which chess opening suits beginners?
"""
QUESTIONS = tuple(_LINES.strip().splitlines())
