"""Prose as language models write it when they are asked politely and told nothing of an author.

A language model wrote every passage of this file, on purpose plainly, so that a twin's texts can be
told from such prose on any machine. Nobody's data is in it, and no fact in it should be relied on.
It stands in code, not in a text file, so that a twin of this repository does not learn it.
"""

from __future__ import annotations

_TEXT = """
Unit testing is an essential practice in modern software development. It involves writing small, \
focused tests that verify the behavior of individual components in isolation. By catching errors \
early in the development process, unit tests help teams maintain code quality and reduce the cost \
of fixing defects. Additionally, a comprehensive test suite serves as documentation, making it \
easier for new team members to understand how the code is intended to work. However, it is \
important to strike a balance between coverage and maintainability. Tests that are too closely \
tied to implementation details can become brittle and difficult to update. Ultimately, the goal is \
to build confidence in the codebase while allowing developers to make changes safely and \
efficiently.

Overfitting occurs when a machine learning model learns the training data too well, including its \
noise and random fluctuations. As a result, the model performs well on the training set but fails \
to generalize to new, unseen data. There are several strategies that can be used to address this \
issue. These include collecting more data, simplifying the model, applying regularization, and \
using techniques such as dropout or early stopping. Cross-validation can also provide a more \
reliable estimate of how the model will perform in practice. By carefully monitoring the \
difference between training and validation performance, practitioners can identify overfitting \
early and take appropriate steps to mitigate it.

A vector database is a specialized system designed to store and retrieve high-dimensional \
embeddings efficiently. These embeddings capture the semantic meaning of text, images, or other \
types of data, enabling similarity search across large collections. In a retrieval-augmented \
generation system, the vector database plays a crucial role by providing relevant context to the \
language model. This context allows the model to generate more accurate and grounded responses. \
When choosing a vector database, it is important to consider factors such as scalability, latency, \
filtering capabilities, and ease of integration with existing infrastructure.

Fine-tuning a large language model allows organizations to adapt a general-purpose model to their \
specific needs. The process typically begins with preparing a high-quality dataset that reflects \
the desired behavior. Next, the model is trained on this dataset using techniques such as \
supervised learning or preference optimization. Parameter-efficient methods can significantly \
reduce the computational resources required, making fine-tuning more accessible to smaller teams. \
It is also essential to evaluate the resulting model thoroughly, using both automated metrics and \
human judgment. By following these steps, teams can ensure that the model delivers consistent and \
reliable results in production.

Quantization is a technique that reduces the memory footprint of a neural network by representing \
its weights with fewer bits. This approach offers several benefits, including faster inference, \
lower energy consumption, and the ability to run models on devices with limited resources. \
However, reducing precision can also lead to a loss of accuracy, particularly when the method is \
applied without careful calibration. Therefore, it is important to evaluate the trade-off between \
efficiency and quality for each use case. In many situations, a well-quantized model can achieve \
performance that is nearly identical to that of the original.

Graph neural networks are a class of models designed to work with data that is structured as a \
graph. Unlike traditional neural networks, which operate on fixed-size inputs, they can capture \
the relationships between entities by passing messages along edges. This makes them particularly \
well suited for applications such as social network analysis, recommendation systems, and drug \
discovery. Each layer aggregates information from neighboring nodes, allowing the model to learn \
increasingly complex representations. While these networks offer significant advantages, they \
also present challenges related to scalability and the handling of dynamic graphs.

Reinforcement learning is a branch of machine learning in which an agent learns to make decisions \
by interacting with an environment. At each step, the agent takes an action and receives a reward \
that indicates how beneficial that action was. Over time, the agent develops a policy that \
maximizes its cumulative reward. One of the key challenges in this field is balancing exploration \
and exploitation. An agent that explores too little may miss better strategies, while an agent \
that explores too much may fail to take advantage of what it has already learned. Despite these \
challenges, reinforcement learning has been successfully applied in areas such as robotics, game \
playing, and resource management.

Writing clear documentation is one of the most valuable contributions a developer can make to a \
project. Good documentation helps users get started quickly, reduces the number of support \
requests, and encourages collaboration within the community. To write effectively, it is helpful \
to begin by identifying the audience and their goals. From there, the content should be organized \
logically, with concise explanations and practical examples. It is equally important to keep the \
documentation up to date as the software evolves. A regular review process can help ensure that \
information remains accurate and relevant over time.

Version control systems provide a structured way to track changes to code over time. They allow \
multiple developers to collaborate on the same project without overwriting each other's work. \
Branches make it possible to experiment with new features in isolation, while pull requests \
facilitate discussion and review before changes are merged. In addition, the complete history of a \
project can be invaluable when investigating the origin of a defect. Teams that adopt clear \
conventions for commit messages and branching often find it easier to coordinate their efforts and \
release software with confidence.

Continuous integration is a development practice in which code changes are automatically built and \
tested whenever they are submitted. This approach helps teams detect integration problems early \
and provides rapid feedback to developers. A well-designed pipeline typically includes stages for \
compiling the code, running tests, checking style, and packaging the application. By automating \
these tasks, organizations can reduce manual effort and minimize the risk of human error. Over \
time, continuous integration fosters a culture of shared responsibility and continuous \
improvement.

Choosing between a relational database and a document store depends on the requirements of your \
application. Relational databases offer strong consistency, powerful query capabilities, and a \
well-defined schema. They are generally a good choice when data is structured and relationships \
between entities are important. Document stores, on the other hand, provide greater flexibility \
and can be easier to scale horizontally. They are often preferred for applications with rapidly \
changing data models. In practice, many systems combine both approaches in order to take advantage \
of their respective strengths.

Improving the performance of a web application requires a systematic approach. First, it is \
important to measure the current performance and identify the main bottlenecks. Common issues \
include inefficient database queries, large assets, and unnecessary network requests. Once these \
issues have been identified, techniques such as caching, compression, and lazy loading can be \
applied. It is also advisable to monitor performance continuously, as new features can introduce \
regressions. By making performance a priority throughout the development process, teams can \
provide a better experience for their users.

Establishing a regular writing habit can be challenging, but there are several strategies that can \
help. Start by setting aside a specific time each day, even if it is only fifteen minutes. \
Creating a comfortable environment that is free from distractions can also make it easier to \
concentrate. It may be helpful to set small, achievable goals and to track your progress over \
time. Remember that the first draft does not need to be perfect. The most important thing is to \
keep writing, as consistency will gradually lead to improvement. Finally, consider sharing your \
work with others, since constructive feedback can provide motivation and new perspectives.

A good introduction captures the attention of the reader and clearly states the purpose of the \
text. One effective approach is to begin with a question, a surprising fact, or a brief story that \
relates to the topic. After this opening, provide enough background to help the reader understand \
the context. The introduction should then conclude with a clear statement of the main idea. \
Keeping the language simple and direct will make the text more accessible. By investing time in \
the introduction, writers can set the tone for the rest of the piece and encourage readers to \
continue.

Effective communication is a vital skill in both personal and professional settings. It involves \
not only expressing ideas clearly but also listening actively to what others have to say. Paying \
attention to body language and tone of voice can provide valuable insight into how a message is \
being received. When misunderstandings arise, it is helpful to ask clarifying questions rather \
than making assumptions. By practicing empathy and remaining open to different perspectives, \
individuals can build stronger relationships and resolve conflicts more constructively.

Planning a weekly menu can save time, reduce food waste, and make healthy eating easier. Begin by \
reviewing what you already have in your kitchen and identifying ingredients that need to be used \
soon. Then choose a few simple recipes that share common ingredients, such as vegetables, grains, \
or beans. Preparing certain components in advance can make cooking during the week much more \
manageable. It is also a good idea to leave some flexibility for leftovers or unexpected plans. \
With a little practice, meal planning can become an enjoyable and rewarding part of your routine.

Regular physical activity offers a wide range of benefits for both body and mind. It can \
strengthen the heart, improve mood, and increase overall energy levels. For those who are new to \
exercise, it is generally recommended to start slowly and gradually increase the intensity. \
Walking, swimming, and cycling are excellent options because they are accessible and gentle on the \
joints. Finding an activity that you enjoy makes it more likely that you will maintain the habit \
over the long term. If you have any health concerns, it is always advisable to consult a qualified \
professional before beginning a new program.

Traveling on a budget does not mean sacrificing memorable experiences. With careful planning, it \
is possible to explore new places while keeping costs under control. Consider traveling outside \
the peak season, when accommodation and transportation are often more affordable. Staying in \
locally owned guesthouses can also provide a more authentic experience. Public transportation is \
usually cheaper than taxis and offers an opportunity to see everyday life. Additionally, many \
cities provide free walking tours, museums, and cultural events. By being flexible and doing some \
research in advance, travelers can make the most of their resources.

Caring for houseplants is a rewarding hobby that can bring a sense of calm to any home. The key \
factors to consider are light, water, humidity, and soil. Different plants have different needs, \
so it is important to research the requirements of each species. Overwatering is one of the most \
common mistakes, as it can lead to root rot. A simple way to avoid this is to check the moisture \
of the soil before watering. With attention and patience, even beginners can create a thriving \
indoor garden.

Personal finance can feel overwhelming at first, but a few basic principles can make a significant \
difference. Creating a budget is an excellent starting point, as it provides a clear picture of \
income and expenses. From there, it becomes easier to identify areas where spending can be \
reduced. Building an emergency fund is another important step, since it offers protection against \
unexpected costs. Over time, consistent saving and thoughtful planning can help individuals \
achieve their long-term goals. It is also worth reviewing your plan regularly to ensure that it \
remains aligned with your priorities.

Thank you for reaching out and for sharing such a detailed description of the issue. I understand \
how frustrating it can be when an order does not arrive as expected. I have reviewed your account \
and can confirm that the package was delayed due to high demand. We are working closely with our \
delivery partner to ensure that it reaches you as soon as possible. In the meantime, please do not \
hesitate to contact us if you have any further questions. We truly appreciate your patience and \
understanding, and we look forward to serving you again in the future.

I hope this message finds you well. I am writing to follow up on our recent discussion regarding \
the upcoming project. As mentioned during the meeting, our team is excited about the opportunity \
to collaborate and believes that the proposed timeline is realistic. I have attached a summary of \
the key points for your review. Please let me know if there are any aspects that you would like to \
adjust or explore in more detail. I would be happy to schedule a call at a time that is convenient \
for you. Thank you once again for your time and consideration.

The old lighthouse stood at the edge of the cliff, its light sweeping gently across the dark \
water. For generations, it had guided sailors safely home, offering hope in the midst of the \
storm. Now, as the sun dipped below the horizon, Clara climbed the winding stairs with a sense of \
quiet determination. She knew that the decision she was about to make would change everything. At \
the top, she paused and took a deep breath, feeling the cool breeze against her skin. In that \
moment, she realized that courage was not the absence of fear but the willingness to move forward \
in spite of it.

Artificial intelligence has the potential to transform many aspects of society, from healthcare \
and education to transportation and entertainment. At the same time, its rapid development raises \
important ethical questions. Issues such as privacy, bias, and accountability must be carefully \
considered to ensure that the technology is used responsibly. Collaboration between researchers, \
policymakers, and the public is essential in order to develop appropriate guidelines. By taking a \
thoughtful and inclusive approach, we can harness the benefits of artificial intelligence while \
minimizing its risks.

An LLM Twin is a digital assistant that is designed to reflect the writing style and knowledge of \
a specific individual. By analyzing existing texts, such as articles and posts, the system can \
learn the patterns that make a person's voice unique. This enables it to assist with tasks like \
drafting content, answering questions, and maintaining a consistent presence online. However, it \
is important to consider the limitations of this approach. A twin can imitate tone and vocabulary, \
but it does not possess genuine understanding or intent. For this reason, human oversight remains \
a crucial part of the process.

To install the package, begin by ensuring that a supported version of Python is available on your \
system. Next, create a virtual environment in order to keep the dependencies of the project \
separate from other applications. Once the environment has been activated, you can use the package \
manager to install the required libraries. After the installation is complete, verify that \
everything works as expected by running a simple command. If you encounter any errors, carefully \
review the output, as it often contains helpful information about the cause of the problem. With \
these steps completed, you will be ready to start exploring the features of the library.

When evaluating a language model, it is important to use a combination of metrics. Automated \
scores such as perplexity provide a quick indication of how well the model predicts text, but they \
do not capture every aspect of quality. Human evaluation offers deeper insight into factors such \
as coherence, relevance, and helpfulness. In addition, benchmarks can be used to compare different \
models under consistent conditions. It is essential to interpret the results carefully, since a \
high score on a benchmark does not always translate into strong performance in practice. A \
balanced evaluation strategy helps ensure that the chosen model meets the needs of its users.

Linear programming is a mathematical method used to determine the best possible outcome in a given \
situation, subject to a set of constraints. It is widely applied in fields such as logistics, \
manufacturing, and finance. The process begins by defining an objective function, which represents \
the quantity to be maximized or minimized. Next, the constraints are expressed as linear \
inequalities. Efficient algorithms can then be used to find the optimal solution. Although real \
problems are often more complex, linear programming provides a solid foundation for understanding \
optimization.

Time management is the process of organizing and planning how to divide your time between \
different activities. Getting it right can help you work more efficiently and reduce stress. One \
popular technique is to break large tasks into smaller, more manageable steps. Prioritizing these \
steps according to their importance and urgency can help you focus on what matters most. It is \
also beneficial to schedule short breaks, as they allow the mind to rest and recover. By \
developing these habits, individuals can achieve a healthier balance between work and personal \
life.

In conclusion, there is no single solution that works for everyone. The best approach depends on a \
variety of factors, including your goals, your experience, and the resources available to you. It \
is often helpful to start with a simple solution and refine it as your understanding grows. \
Seeking feedback from others can provide valuable insights and help you avoid common mistakes. \
Whatever path you choose, remember that learning is an ongoing process. With patience, curiosity, \
and a willingness to adapt, you will be well equipped to overcome challenges and achieve \
meaningful results.

Great question! The short answer is that it depends on your situation, but let's break it down \
step by step. If you're working on a small project with only a few users, a simple setup is \
usually more than enough. You'll be able to move quickly, and there's less to maintain. If you're \
expecting significant growth, it's worth thinking about scalability early on. The good news is \
that you don't have to decide everything right away. Start small, keep your options open, and \
revisit the decision once you have real data. If you'd like, I can walk you through a concrete \
example or help you compare the alternatives in more detail.

Sure, here's a clear explanation of how attention works in transformers. Think of each word in a \
sentence as asking a question about all the other words. The model compares these questions with \
the information that every other word has to offer, and assigns a weight to each match. Words that \
are more relevant receive a higher weight, while less relevant ones are effectively ignored. This \
isn't just a clever trick, it's the key mechanism that allows these models to handle long-range \
dependencies. Because all comparisons can be made in parallel, training is also much faster than \
with recurrent networks. Let me know if you'd like me to go deeper into the mathematics behind it.

Absolutely, that error can be confusing, but it's actually quite common. It usually means that the \
function received a value it wasn't expecting. The easiest way to fix it is to check the type of \
the variable just before the line where the error occurs. If it turns out to be empty, make sure \
that the previous step completed successfully. You might also want to add a small check that \
returns early when the input is missing. This makes your code more robust and easier to debug in \
the future. Once you've made these changes, try running it again and let me know how it goes.

In today's fast-paced digital landscape, data has become one of the most valuable assets for \
organizations of all sizes. Companies that harness its power can unlock new opportunities, \
streamline their operations, and deliver personalized experiences. Yet data alone is not enough. \
What truly matters is the ability to turn raw information into actionable insights. This requires \
not only the right tools but also a culture that values curiosity and collaboration. As we look to \
the future, one thing is clear: those who embrace a data-driven mindset will be better positioned \
to navigate uncertainty and drive lasting innovation.

A chat template defines how the messages of a conversation are converted into a single sequence of \
tokens. It typically includes special markers that indicate the role of each speaker, such as the \
system, the user, and the assistant. Using the correct template is essential, because a model that \
was trained with one format may perform poorly when it is prompted with another. For this reason, \
many libraries store the template together with the tokenizer. Before training or deploying a \
model, it is a good practice to inspect a few formatted examples in order to confirm that they \
match your expectations.

The main difference between supervised and unsupervised learning lies in the type of data that is \
used. In supervised learning, each example is paired with a label, which allows the model to learn \
a mapping from inputs to outputs. Common applications include classification and regression. In \
unsupervised learning, by contrast, the data does not contain labels, and the model must discover \
patterns on its own. Techniques such as clustering and dimensionality reduction fall into this \
category. Both approaches have their own strengths, and the right choice depends on the problem at \
hand and the data that is available.

Preference optimization aims to align the behavior of a language model with human expectations. \
Instead of learning from single examples, the model is presented with pairs of responses, one of \
which is preferred over the other. By increasing the likelihood of the preferred response, the \
model gradually learns to produce outputs that are more helpful and appropriate. This method is \
often simpler and more stable than traditional reinforcement learning. Nevertheless, its success \
depends heavily on the quality and diversity of the preference data. Careful curation is therefore \
an important part of the overall process.

Chunking refers to the process of dividing long documents into smaller segments before they are \
indexed. This step is crucial because embedding models can only process a limited amount of text \
at once. Smaller segments tend to be more precise, whereas larger segments preserve more of the \
surrounding context. A common strategy is to split documents along natural boundaries, such as \
paragraphs or headings, and to include a small overlap between neighboring segments. Experimenting \
with different sizes can help determine which configuration leads to the best retrieval quality \
for a particular application.

Monitoring is an essential component of any production machine learning system. Over time, the \
distribution of incoming data may change, which can lead to a gradual decline in performance. By \
tracking key metrics, teams can detect these changes early and respond before users are affected. \
In addition to accuracy, it is useful to monitor latency, resource usage, and the rate of errors. \
Alerts should be configured thoughtfully to avoid overwhelming the team with notifications. \
Combined with regular retraining, effective monitoring helps ensure that the system continues to \
deliver value.

When it comes to choosing a programming language for data analysis, Python is often the preferred \
option. Its simple syntax makes it accessible to beginners, while its extensive ecosystem of \
libraries supports a wide range of advanced tasks. Tools for manipulating tables, creating \
visualizations, and training models are readily available and well documented. That said, other \
languages also have their advantages. Some are particularly strong in statistical analysis, while \
others offer superior performance for demanding computations. Ultimately, the best language is the \
one that fits your needs and that your team feels comfortable using.

There are several ways to speed up the processing of a large table. The most effective approach is \
usually to replace explicit loops with vectorized operations, which apply a computation to an \
entire column at once. These operations are implemented in optimized code and can be many times \
faster than iterating over individual rows. If a loop cannot be avoided, consider using a method \
that returns lightweight tuples instead of full objects. Selecting only the necessary columns and \
choosing efficient data types can further reduce memory usage. Profiling the code beforehand \
ensures that you focus on the parts that matter most.

Microservices are an architectural style in which an application is composed of small, independent \
services. Each service is responsible for a specific capability and communicates with others \
through well-defined interfaces. This separation allows teams to develop, deploy, and scale their \
services independently. However, it also introduces additional complexity, particularly in areas \
such as networking, data consistency, and observability. For smaller projects, a single \
well-structured application may be easier to manage. It is important to weigh these considerations \
carefully before adopting this approach.

Sharing your knowledge through a blog can be a powerful way to strengthen your professional \
profile. Writing about a topic forces you to organize your thoughts and often reveals gaps in your \
understanding. Choose subjects that you are genuinely interested in, as your enthusiasm will come \
across to your readers. Visual elements such as diagrams and code examples can make complex ideas \
easier to follow. Do not be discouraged if your first articles attract little attention. By \
publishing consistently and engaging with your audience, you will gradually build a community \
around your work.

Remote work has become increasingly common in recent years, and it offers both opportunities and \
challenges. On the one hand, employees enjoy greater flexibility and spend less time commuting. On \
the other hand, the lack of direct interaction can lead to feelings of isolation. Establishing \
clear routines and maintaining regular contact with colleagues can help address these concerns. \
Organizations should also provide the necessary tools and encourage a healthy separation between \
work and private life. With the right support, remote teams can be just as productive and engaged \
as those who share an office.

Learning a new language is a journey that requires time, patience, and regular practice. Immersing \
yourself in the language through music, films, and conversations can make the process more \
enjoyable. Instead of memorizing long lists of words, try to learn phrases in context, since this \
makes them easier to remember. Mistakes are a natural part of learning and should be seen as \
opportunities to improve. Many learners also find it helpful to study with a partner who shares \
their goals. Above all, stay curious and celebrate your progress along the way.

I completely understand where you're coming from, and it's normal to feel unsure at this stage. \
Changing careers is a big step, but the skills you've already developed will serve you well. Start \
by making a list of the things you enjoy and the tasks that give you energy. From there, you can \
explore roles that bring these elements together. It might also be worth talking to people who \
already work in the field, since they can give you an honest picture of what to expect. Remember, \
you don't need to have everything figured out today. Taking one small step at a time is often the \
best way forward.
"""
PASSAGES = tuple(" ".join(part.split()) for part in _TEXT.strip().split("\n\n"))
